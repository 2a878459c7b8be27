"""Whose jobs are whose with keys, what they may make, and what others notice of them (U6)."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.jobs.kinds import KINDS, PACKS, Kind, calibrated
from server.jobs.store import JobStore
from server.serving import Served
from server.settings import Settings
from server.translate import jobs as wire
from steering.engine.config import EngineConfig
from steering.one_file import save_unpacked
from tests.evaluation.fakes import write_data
from tests.server.fake_engine import FakeEngine
from tests.server.jobs.kinds import PATH, seeded
from tests.server.jobs.test_routes import QUESTIONS, ended, refusal
from tests.server.keyed import EVERYTHING, Keyed, bearer, keyed
from tests.server.live import Live, serve
from tests.server.uploads import MODEL, ONE, ONE_DIGEST, with_uploads

EVALUATE: dict[str, Any] = {"kind": "evaluate", "suites": ["answer"], "seed": 5}
CALIBRATE: dict[str, Any] = {"kind": "calibrate", "profile": "mine", "questions": QUESTIONS}


@pytest.fixture
def calibrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration has made its profile as soon as it begins."""
    made, file = tmp_path / "made", tmp_path / "file"
    made.mkdir()
    file.write_bytes(ONE)
    save_unpacked(file, made / "mine", MODEL)

    def command(job: Any, folder: Path, settings: Settings, served: Served) -> list[str]:
        shutil.copytree(made, folder / PACKS)
        return [sys.executable, "-c", "pass"]

    monkeypatch.setitem(KINDS, "calibrate", Kind(command, calibrated, lambda parameters, model: 1))  # type: ignore[misc]


@contextmanager
def uploading(folder: Path, **tables: Any) -> Iterator[Keyed]:
    served = with_uploads(folder / "uploads", FakeEngine(MODEL, EngineConfig(max_rows=4)))
    with keyed(served, folder, tables, jobs=folder / "jobs", audit_log=folder / "audit") as server:
        yield server


@pytest.mark.usefixtures("calibrates")
def test_what_a_calibration_makes_needs_the_scope_of_profiles(tmp_path: Path, fake: Served) -> None:
    with uploading(tmp_path, some={"scopes": ["jobs"]}, both={"scopes": ["jobs", "profiles"]}) as server:
        client = server.live.client
        reply = client.post(PATH, json=CALIBRATE, headers=bearer("some"))
        assert refusal(reply) == (403, "insufficient_scope", "kind") and 'scope="profiles"' in str(reply.headers)
        assert client.get(PATH, headers=bearer("some")).json()["data"] == []
        client.headers.update(bearer("both"))
        job = client.post(PATH, json=CALIBRATE).json()
        assert ended(server.live, job)["result"]["profiles"][0]["published"] is True
        told = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
        assert [one["action"] for one in told] == ["access_denied", "job_created", "profile_put"]
        del told[-1]["time"]
        assert told[-1] == {"action": "profile_put", "profile": "mine", "digest": ONE_DIGEST} | {
            "job": job["id"],
            "key": "both",
        }
    (tmp_path / "none").mkdir()
    with keyed(fake, tmp_path / "none", {"some": {"scopes": ["jobs"]}}, jobs=tmp_path / "none" / "jobs") as server:
        reply = server.live.client.post(PATH, json=CALIBRATE, headers=bearer("some"))
        assert reply.status_code == 201, "nothing is served that it makes"


def test_a_long_job_takes_no_chats_place(fake: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going_on, begun, prepare = threading.Event(), threading.Semaphore(0), wire.prepare

    def slow(*arguments: Any) -> Any:
        begun.release()
        assert going_on.wait(30)
        return prepare(*arguments)

    monkeypatch.setattr(wire, "prepare", slow)
    settings = Settings(jobs=tmp_path / "jobs", benchmarks=write_data(tmp_path / "data"))
    with serve(lambda: fake, settings) as live, ThreadPoolExecutor(4) as others:
        asked = [others.submit(live.client.post, PATH, json={"kind": "train"}) for _ in range(4)]
        assert begun.acquire(timeout=10)
        try:
            assert live.chat(max_tokens=1).status_code == 200
            assert not begun.acquire(timeout=0.3), "one at a time"
        finally:
            going_on.set()
        assert {reply.result().status_code for reply in asked} == {400}


def test_U6_anothers_job_is_none_but_to_an_admin(fake: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "evaluate", seeded(0.05))  # type: ignore[misc]
    tables = {"alice": {"scopes": ["jobs"]}, "bob": {"scopes": ["jobs"]}, "root": EVERYTHING}
    settings = {"jobs": tmp_path / "jobs", "benchmarks": write_data(tmp_path / "data")}
    with keyed(fake, tmp_path, tables, **settings) as server:
        client = server.live.client
        job = client.post(PATH, json=EVALUATE | {"seed": 5000}, headers=bearer("alice")).json()
        one = f"{PATH}/{job['id']}"
        for ask in (client.get, client.delete):
            assert refusal(ask(one, headers=bearer("bob"))) == (404, "job_not_found", "job_id")
        assert refusal(client.get(f"{one}/events", headers=bearer("bob")))[1] == "job_not_found"
        assert client.get(PATH, headers=bearer("bob")).json()["data"] == []
        server.rewrite(bob={"scopes": ["jobs"]}, root=EVERYTHING)
        assert client.get(one, headers=bearer("alice")).status_code == 401
        client.headers.update(bearer("root"))
        assert [listed["id"] for listed in client.get(PATH).json()["data"]] == [job["id"]]
        assert client.delete(one).json()["state"] in ("cancelling", "cancelled")
        assert ended(server.live, job)["state"] == "cancelled"
        assert client.get(f"{one}/events").text.count("event: end") == 1
        assert client.delete(one).json()["deleted"] is True


def leaves(live: Live, method: str, path: str, fields: dict[str, Any] | None, gone: threading.Event) -> None:
    """Sends a request and goes away as soon as its work is under way."""
    body = b"" if fields is None else json.dumps(fields).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", live.port)) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert gone.wait(10)


def test_a_client_that_leaves_leaves_nothing_half(
    fake: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes its time to write a record, and a client that does not wait for it."""
    begun = threading.Event()

    def slowly(name: str) -> None:
        write = getattr(JobStore, name)

        def written(*arguments: Any) -> Any:
            begun.set()
            time.sleep(0.5)
            return write(*arguments)

        monkeypatch.setattr(JobStore, name, written)

    monkeypatch.setitem(KINDS, "evaluate", seeded(0.05))  # type: ignore[misc]
    slowly("add")
    slowly("cancel")
    log = tmp_path / "audit"
    settings = Settings(jobs=tmp_path / "jobs", benchmarks=write_data(tmp_path / "data"), audit_log=log)

    def state() -> list[str]:
        return [job["state"] for job in live.client.get(PATH).json()["data"]]

    def told() -> list[str]:
        return [json.loads(line)["action"] for line in log.read_text().splitlines()]

    with serve(lambda: fake, settings) as live:
        leaves(live, "POST", PATH, EVALUATE | {"seed": 5000}, begun)
        live.wait_until(lambda: state() == ["running"], 10)
        assert told() == ["job_created"]
        (job,) = live.client.get(PATH).json()["data"]
        begun.clear()
        leaves(live, "DELETE", f"{PATH}/{job['id']}", None, begun)
        live.wait_until(lambda: state() == ["cancelled"], 10)
        assert told() == ["job_created", "job_cancelled"]


def test_metrics_wait_for_the_records_beside_the_event_loop(fake: Served, tmp_path: Path) -> None:
    with serve(lambda: fake, Settings(jobs=tmp_path / "jobs")) as live, ThreadPoolExecutor(1) as other:
        with live.app.state.jobs.store._lock:
            page = other.submit(live.client.get, "/metrics")
            time.sleep(0.2)
            assert not page.done()
            assert httpx.get(f"{live.url}/health/live", timeout=5, trust_env=False).status_code == 200
        assert page.result().status_code == 200
