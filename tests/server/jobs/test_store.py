"""Records of jobs: one result each, nothing half, and what is damaged is said (L6, L7, L8, L10, L15)."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.errors import ApiError
from server.jobs.store import FILE, FORMAT, MAX_KEPT, MAX_KEPT_EACH, MAX_WAITING, MAX_WAITING_EACH, JobStore
from server.settings import BadSettings
from tests.server.jobs.kinds import counting


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path)
    yield store
    store.close()


def refused(error: pytest.ExceptionInfo[ApiError]) -> tuple[int, str]:
    return error.value.status, error.value.code


def again(store: JobStore) -> JobStore:
    """What the next server finds."""
    store.close()
    return JobStore(store.folder)


def edit(folder: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(folder / FILE) as database:
        assert database.execute(statement, values).rowcount != 0
    database.close()


def test_a_life(store: JobStore) -> None:
    job = store.add(counting())
    assert (job.state, job.attempts, job.started, job.ended) == ("queued", 0, None, None)
    assert store.begin(job.id) and not store.begin(job.id), "once"
    assert store.get(job.id).state == "running" and store.get(job.id).attempts == 1
    assert store.finish(job.id, exit_code=0, result={"sum": 1})
    done = store.get(job.id)
    assert (done.state, done.exit_code, done.result) == ("completed", 0, {"sum": 1})
    assert done.created <= (done.started or 0) <= (done.ended or 0)
    assert again(store).get(job.id) == done


def test_L6_a_result_is_written_once(store: JobStore) -> None:
    job = store.add(counting())
    store.begin(job.id)
    assert store.finish(job.id, exit_code=0, result=1)
    assert not store.finish(job.id, exit_code=0, result=2)
    assert not store.begin(job.id)
    assert store.get(job.id).result == 1


def test_what_a_dead_server_left_goes_on(store: JobStore) -> None:
    running, cancelled = (store.add(counting(steps=n)) for n in (1, 2))
    for job in (running, cancelled):
        store.begin(job.id)
    store.cancel(cancelled.id)
    assert store.get(cancelled.id).state == "cancelling"
    later = again(store)
    later.recover()
    assert [job.id for job in later.waiting()] == [running.id] and later.get(running.id).state == "interrupted"
    assert later.get(cancelled.id).state == "cancelled"
    later.begin(running.id)
    assert later.get(running.id).attempts == 2
    later.close()


def test_cancelling_wins_over_a_result(store: JobStore) -> None:
    job = store.add(counting())
    store.begin(job.id)
    store.cancel(job.id)
    store.finish(job.id, exit_code=0, result=1)
    assert store.get(job.id).state == "cancelled"


def test_the_same_twice_only_one_after_the_other(store: JobStore) -> None:
    first = store.add(counting())
    for begin in (False, True):
        if begin:
            store.begin(first.id)
        with pytest.raises(ApiError, match=first.id) as error:
            store.add(counting())
        assert refused(error) == (409, "job_already_running")
        assert error.value.headers["x-should-retry"] == "false"
    store.add(counting(steps=6))
    store.add(counting(owner="you"))
    store.finish(first.id, exit_code=2, reason="it broke")
    assert store.get(first.id).state == "failed" and store.get(first.id).reason == "it broke"
    store.add(counting())


def test_there_are_not_too_many(store: JobStore) -> None:
    for n in range(MAX_WAITING):
        store.add(counting(steps=n, owner=f"of {n % 2}"))
    with pytest.raises(ApiError, match="has ended") as error:
        store.add(counting(steps=99))
    assert refused(error) == (429, "queue_full")
    for job in store.waiting():
        store.cancel(job.id)
    for n in range(MAX_KEPT - MAX_WAITING):
        store.cancel(store.add(counting(steps=n, owner=f"of {n % 2}")).id)
    with pytest.raises(ApiError, match="delete some") as error:
        store.add(counting(steps=99))
    assert refused(error) == (429, "queue_full")
    store.forget(store.all()[0].id)
    assert store.add(counting(steps=99)) and dict(store.counts()) == {"queued": 1, "cancelled": MAX_KEPT - 1}


def test_nobody_takes_all_places(store: JobStore) -> None:
    mine = [store.add(counting(steps=n)) for n in range(MAX_WAITING_EACH)]
    with pytest.raises(ApiError, match="of yours are running or waiting") as error:
        store.add(counting(steps=99))
    assert refused(error) == (429, "queue_full") and store.add(counting(owner="you"))
    for job in mine:
        store.cancel(job.id)
    for n in range(MAX_KEPT_EACH - MAX_WAITING_EACH):
        store.cancel(store.add(counting(steps=n)).id)
    with pytest.raises(ApiError, match="of yours are kept"):
        store.add(counting(steps=99))
    assert store.add(counting(steps=99, owner="you"))


def test_a_list_is_of_ones_own_and_parsed_while_others_write(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, _ = store.add(counting()), store.add(counting(owner="you", padding="x" * 1_000_000))
    store.begin(mine.id)
    store.finish(mine.id, exit_code=0, result={"sum": 1})
    parsed, loads = list[str](), json.loads

    def parse(text: str) -> Any:
        parsed.append(text)
        assert not store._lock.locked()
        return loads(text)

    monkeypatch.setattr(json, "loads", parse)
    assert [job.id for job in store.all("me")] == [mine.id]
    assert len(parsed) == 1 and "pause" in parsed[0], "neither its result nor anything of others"
    assert len(store.all()) == 2 and len(store.waiting()) == 1 and store.get(mine.id).result == {"sum": 1}


@pytest.mark.parametrize("how", ["finished", "cancelled", "interrupted", "left"])
def test_questions_go_with_the_end(store: JobStore, how: str) -> None:
    job, other = (store.add(counting(steps=n, questions=[{"question": "Why?"}] * 3)) for n in (1, 2))
    if how != "cancelled":
        store.begin(job.id)
    if how != "finished":
        store.cancel(job.id)
    match how:
        case "finished":
            store.finish(job.id, exit_code=0, result=1)
        case "interrupted":
            store.interrupt(job.id, "the server was stopped")
        case "left":
            store.recover()
    ended = store.get(job.id)
    assert ended.state in ("completed", "cancelled") and ended.asked.parameters["questions"] == 3
    assert len(store.get(other.id).asked.parameters["questions"]) == 3 and store.get(other.id).state == "queued"
    edit_in(store, "UPDATE job SET state = 'failed', digest = 'odd' WHERE id = ?", other.id)
    store.begin(other.id)
    assert store.get(other.id).state == "corrupt" and "Why?" in raw_parameters(store, other.id), "left as it is"


def edit_in(store: JobStore, statement: str, *values: object) -> None:
    with store._transaction() as database:
        assert database.execute(statement, values).rowcount == 1


def raw_parameters(store: JobStore, job_id: str) -> str:
    with store._transaction() as database:
        (found,) = database.execute("SELECT parameters FROM job WHERE id = ?", [job_id]).fetchone()
    return str(found)


def test_L10_a_second_server_is_refused(store: JobStore) -> None:
    code = f"from pathlib import Path; from server.jobs.store import JobStore; JobStore(Path({str(store.folder)!r}))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "in use by another" in ended.stderr.splitlines()[-1]
    assert store.add(counting()), "the first goes on"


@pytest.mark.parametrize("file", [b"not a database at all" * 400, bytes(8192), b"SQLite format 3\x00" + b"\xff" * 9000])
def test_L8_a_file_that_is_none_stops_nothing(tmp_path: Path, file: bytes) -> None:
    (tmp_path / FILE).write_bytes(file)
    store = JobStore(tmp_path)
    if file == bytes(8192) and not store.broken:
        pytest.skip("this SQLite takes zeros for an empty file")
    assert "damaged" in store.broken and (tmp_path / FILE).read_bytes() == file
    with pytest.raises(ApiError, match="damaged") as error:
        store.add(counting())
    assert refused(error) == (503, "jobs_unavailable")
    store.close()


def test_L8_a_truncated_file_is_left_as_it_is(store: JobStore) -> None:
    for n in range(16):
        store.add(counting(steps=n, owner=f"of {n % 2}", padding="x" * 4000))
    store.close()
    whole = (store.folder / FILE).read_bytes()
    assert len(whole) > 40_000
    (store.folder / FILE).write_bytes(whole[: len(whole) // 2])
    later = JobStore(store.folder)
    assert "damaged" in later.broken
    later.close()
    (store.folder / FILE).write_bytes(whole)
    last = JobStore(store.folder)
    assert not last.broken and len(last.waiting()) == 16
    last.close()


@pytest.mark.parametrize("column", ["parameters", "result", "kind", "state", "id"])
def test_L8_one_damaged_record_is_listed_and_never_run(store: JobStore, column: str) -> None:
    bad, good = (store.add(counting(steps=n)) for n in (1, 2))
    store.begin(bad.id)
    store.finish(bad.id, exit_code=0, result={"sum": 7})
    store.close()
    damaged = {
        "parameters": '{"pause": 0.01, "steps": 9}',
        "result": '{"sum": 8}',
        "kind": "other",
        "state": "odd",
        "id": "../..",
    }
    edit(store.folder, f"UPDATE job SET {column} = ? WHERE id = ?", damaged[column], bad.id)  # noqa: S608
    later = JobStore(store.folder)
    found = later.all()[0]
    assert found.state == "corrupt" and "damaged" in found.reason and found.result is None
    assert [job.id for job in later.waiting()] == [good.id]
    later.forget(found.id)
    assert [job.id for job in later.all()] == [good.id]
    later.close()


def test_L15_a_later_format_is_left_alone(store: JobStore) -> None:
    store.add(counting())
    store.close()
    edit(store.folder, f"PRAGMA user_version = {FORMAT + 1}")
    later = JobStore(store.folder)
    assert f"has format {FORMAT + 1}" in later.broken and "later one" in later.broken
    later.close()
    edit(store.folder, f"PRAGMA user_version = {FORMAT}")
    last = JobStore(store.folder)
    assert not last.broken and len(last.waiting()) == 1
    last.close()


def test_L7_a_full_disk_is_said_and_passes(store: JobStore) -> None:
    job = store.add(counting())
    store.begin(job.id)
    (pages,) = store._database.execute("PRAGMA page_count").fetchone()
    store._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ApiError) as error:
        store.finish(job.id, exit_code=0, result="x" * 100_000)
    assert refused(error) == (507, "storage_full") and error.value.headers["x-should-retry"] == "false"
    assert store.get(job.id).state == "running" and store.get(job.id).result is None
    store._database.execute("PRAGMA max_page_count = 100000")
    assert store.finish(job.id, exit_code=0, result="x" * 100_000)


def test_L9_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSettings, match="--jobs must be a folder that can be written"):
        JobStore(tmp_path / "file")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / FILE).mkdir()
    with pytest.raises(BadSettings, match="--jobs must be a folder that can be written"):
        JobStore(tmp_path / "odd")
