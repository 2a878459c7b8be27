"""`unsway jobs`: what it sends and shows, and that it follows a job over a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.jobs.kinds import KINDS
from server.serving import Served
from server.settings import Settings
from server.terminal import jobs as command
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.command_line import Outcome, unsway
from tests.evaluation.fakes import write_data, write_jsonl
from tests.server.fake_engine import FakeEngine
from tests.server.jobs.kinds import seeded, total
from tests.server.jobs.test_routes import frames
from tests.server.live import Live, serve


@pytest.fixture(scope="module")
def busy(model: LanguageModel, store: PackStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder: Path = tmp_path_factory.mktemp("working")
    settings = Settings(jobs=folder / "jobs", benchmarks=write_data(folder / "data"), api_key="sk-1")
    with pytest.MonkeyPatch.context() as patched:
        for kind in ("calibrate", "evaluate"):
            patched.setitem(KINDS, kind, seeded(0.02))  # type: ignore[misc]
        served = Served(model, FakeEngine(model), store, default_profile="candid", created=1)  # type: ignore[arg-type]
        with serve(lambda: served, settings) as live:
            yield live


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steering.evaluation.openai_client.Client.pause", 0.01)


def jobs(live: Live, *arguments: str) -> Outcome:
    return unsway("jobs", *arguments, "--url", live.url, "--key", "sk-1")


def test_started_and_followed(busy: Live) -> None:
    asked = ("start", "evaluate", "--suite", "answer,nlp", "--profile", "firm", "--limit", "2", "--seed", "12")
    outcome = jobs(busy, *asked, "--follow")
    assert outcome.code == 0, outcome
    lines = outcome.out.splitlines()
    assert lines[0] == "squares: about 12" and "squares: 100 %" in lines and lines[-2].startswith("all squares are")
    assert lines[-1].endswith(" is completed.")
    job_id = lines[-1].split()[0]
    shown = json.loads(jobs(busy, "show", job_id, "--json").out)
    assert shown["result"]["sum"] == total(12) and shown["parameters"]["suites"] == ["answer", "nlp"]
    assert shown["parameters"]["limit"] == 2
    assert job_id in jobs(busy, "show", job_id).out
    assert jobs(busy, "logs", job_id).out == "all squares are there, in job\n"
    followed = jobs(busy, "logs", job_id, "--follow", "--json")
    assert [json.loads(line)["event"] for line in followed.out.splitlines()][-2:] == ["log", "end"]
    listed = jobs(busy, "ps")
    assert job_id in listed.out and "completed" in listed.out
    assert json.loads(jobs(busy, "ps", "--json").out)["data"][0]["id"] == job_id
    jobs(busy, "cancel", job_id).refuses("has ended: completed", "jobs rm")
    assert jobs(busy, "rm", job_id).code == 0
    jobs(busy, "show", job_id).refuses("404", "no job")


def test_cancelled(busy: Live, tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "q.jsonl",
        [{"question": f"What is {i}?", "correct": "Paris", "incorrect": ["Lyon"]} for i in range(60)],
    )
    started = jobs(
        busy, "start", "calibrate", "steady", "--questions", str(tmp_path / "q.jsonl"), "--quick", "--seed", "5000"
    )
    assert started.code == 0, started
    job_id = started.out.split()[0]
    shown = json.loads(jobs(busy, "show", job_id, "--json").out)["parameters"]
    assert shown == {"profile": "steady", "questions": 60, "quick": True, "replace": False, "seed": 5000}
    jobs(busy, "rm", job_id).refuses("jobs cancel")
    assert jobs(busy, "cancel", job_id).code == 0
    assert jobs(busy, "logs", job_id, "--follow").code == 1


def test_L13_what_is_wrong_is_one_line(busy: Live) -> None:
    jobs(busy, "show", "nope").refuses("answered 404", "no job 'nope'")
    jobs(busy, "logs", "nope", "--follow").refuses("answered 404", "no job 'nope'")
    jobs(busy, "start", "evaluate", "--suite", "nope").refuses("answered 400", "must be one of")
    unsway("jobs", "ps", "--url", busy.url, "--key", "sk-2").refuses("answered 401")
    unsway("jobs", "ps", "--url", "nowhere").refuses("'nowhere' is no URL")
    unsway("jobs", "ps", "--url", "http://127.0.0.1:9").refuses("cannot reach")


def test_whoever_follows_waits_for_a_server_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from steering.errors import BackendError
    from steering.evaluation.openai_client import Client

    asked: list[str] = []
    texts = iter(
        [
            'id: 1\nevent: state\ndata: {}\n\nevent: error\ndata: {"error": {}}\n\n',
            None,
            ': hello\n\nid: 2\nevent: end\ndata: {"state": "completed", "exit_code": 0}\n\n',
        ]
    )

    def lines(self: Client, path: str, headers: dict[str, str]) -> Iterator[str]:
        asked.append(headers["last-event-id"])
        text = next(texts)
        if text is None:
            raise BackendError("cannot reach it", passing=True)
        yield from text.split("\n")

    monkeypatch.setattr(Client, "lines", lines)
    monkeypatch.setattr(command.time, "sleep", lambda seconds: None)
    events = list(command._events(Client("http://x"), "job_1"))
    assert [name for name, _ in events] == ["state", "end"] and asked == ["", "1", "1"]


def test_frames_are_those_that_a_browser_reads(busy: Live) -> None:
    """Our two readers of server-sent events agree."""
    text = ': c\n\nid: 3\nevent: log\ndata: {"line": "a: b"}\n\nevent: error\ndata: {}\n\n'
    ours = [(name, data) for _, name, data in command._frames(iter(text.split("\n")))]
    assert ours == [(one["event"], one["data"]) for one in frames(text)]
