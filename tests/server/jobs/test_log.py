"""The log of a job: numbered, bounded, and whole after a kill, a full disk or damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.jobs.log import MAX_BYTES, MAX_LINE, JobLog, parse_line
from tests.server.jobs.kinds import told


def progress(done: int) -> tuple[str, dict[str, object]]:
    return parse_line(json.dumps({"stage": "s", "done": done, "total": 9, "unit": "u", "message": f"{done} of 9"}))  # type: ignore[return-value]


def test_numbers_grow_over_servers(tmp_path: Path) -> None:
    log = JobLog(tmp_path / "events.jsonl")
    assert (log.last_id, log.end_id, log.after(0)) == (0, 1, [])
    log.add(("state", {"state": "running"}), ("log", {"line": "one"}))
    log.add(progress(3))
    later = JobLog(tmp_path / "events.jsonl")
    assert later.events == log.events and [event.id for event in later.events] == [1, 2, 3]
    assert [event.name for event in later.after(1)] == ["log", "progress"]
    assert later.progress == {"stage": "s", "done": 3, "total": 9, "unit": "u", "message": "3 of 9"}
    assert later.lines(10) == ["one"]
    assert [event.id for event in later.add(("log", {"line": "two"}))] == [4]


def test_it_stays_small_and_old_progress_goes_first(tmp_path: Path) -> None:
    log, path = JobLog(tmp_path / "events.jsonl"), tmp_path / "events.jsonl"
    log.add(("log", {"line": "the first line"}))
    for done in range(20_000):
        log.add(progress(done))
        assert path.stat().st_size <= MAX_BYTES
    assert log.lines(10) == ["the first line"] and log.progress is not None and log.progress["done"] == 19_999
    assert JobLog(path).events == log.events
    for number in range(300):
        log.add(("log", {"line": f"{number} " + "x" * 10_000}))
    assert path.stat().st_size <= MAX_BYTES and log.lines(1)[0].startswith("299 ")
    assert not log.lines(10_000)[0].startswith("the first"), "what is oldest goes when there is no more progress"
    ids = [event.id for event in JobLog(path).events]
    assert ids == sorted(set(ids)) and ids[-1] == 20_301


def test_L8_damaged_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = JobLog(path)
    log.add(*(("log", {"line": f"line {i}"}) for i in range(5)))
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b'"', b"\xff", 1)
    lines[2] = lines[2].replace(b'"id": 3', b'"id": 1')
    path.write_bytes(b"\n".join(lines)[:-4])  # and the last was being written
    later = JobLog(path)
    assert [event.id for event in later.events] == [1, 4]
    later.add(("log", {"line": "after"}))
    assert JobLog(path).lines(9) == ["line 0", "line 3", "after"]


def test_L7_what_the_disk_does_not_take_is_still_told(tmp_path: Path) -> None:
    log = JobLog(tmp_path / "not there" / "events.jsonl")
    log.add(("log", {"line": "said"}))
    assert log.lines(1) == ["said"]
    (tmp_path / "not there").mkdir()
    log.add(("log", {"line": "kept"}))
    assert [one["data"]["line"] for one in told(tmp_path / "not there" / "events.jsonl")] == ["kept"]


@pytest.mark.parametrize(
    "line",
    ["plain", "", "{", '{"log": 3}', '{"stage": "s", "done": "1"}', "[" * 100_000, "{" * 100_000, "[1]", "\x00\x1b[2J"],
)
def test_anything_else_is_a_line(line: str) -> None:
    assert parse_line(line) == ("log", {"line": line[:MAX_LINE]})


def test_lines_of_the_stream() -> None:
    assert parse_line('{"log": "a"}') == ("log", {"line": "a"})
    assert progress(2)[0] == "progress" and progress(2)[1]["done"] == 2
    odd = '{"stage": "s", "done": 1, "total": 2, "unit": "u", "message": "m", "eta_s": 1.5, "other": 1}'
    assert parse_line(odd)[1].keys() == {"stage", "done", "total", "unit", "message", "eta_s"}
