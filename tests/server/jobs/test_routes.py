"""/v1/steering/jobs over HTTP: what is taken and refused, what is told, and how a stream of events ends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from server.jobs.job import Asked
from server.jobs.kinds import KINDS, calibrated
from server.jobs.store import JobStore
from server.schemas.jobs import Job, JobDeleted, JobList
from server.serving import Served
from server.settings import Settings
from steering.errors import StorageFull
from steering.model.loading import LanguageModel
from steering.pack import save_pack
from steering.pack_folder import PackFolder
from steering.store import PackStore
from steering.uploads import Quota, Uploads
from tests.evaluation.fakes import write_data
from tests.packs import simple_pack
from tests.server.fake_engine import FakeEngine
from tests.server.jobs.kinds import EVALUATE, PATH, seeded, total
from tests.server.live import Live, serve

JOB, LIST, DELETED = TypeAdapter(Job), TypeAdapter(JobList), TypeAdapter(JobDeleted)
REAL = dict(KINDS)
QUESTIONS = [{"question": f"What is {i}?", "correct": ["Paris"], "incorrect": ["Lyon"]} for i in range(200)]
CALIBRATE: dict[str, Any] = {"kind": "calibrate", "profile": "steady", "questions": QUESTIONS}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder: Path = tmp_path_factory.mktemp("working")
    return Settings(jobs=folder / "jobs", benchmarks=write_data(folder / "data"))


@pytest.fixture(scope="module")
def busy(model: LanguageModel, store: PackStore, settings: Settings) -> Iterator[Live]:
    """A server whose jobs count."""
    with pytest.MonkeyPatch.context() as patched:
        for kind in ("calibrate", "evaluate"):
            patched.setitem(KINDS, kind, seeded(0.05))  # type: ignore[misc]
        served = Served(model, FakeEngine(model), store, default_profile="candid", created=1)  # type: ignore[arg-type]
        with serve(lambda: served, settings) as live:
            yield live


def asked(live: Live, **fields: Any) -> dict[str, Any]:
    reply = live.client.post(PATH, json=EVALUATE | fields)
    assert reply.status_code == 201, reply.text
    job: dict[str, Any] = reply.json()
    assert reply.headers["location"] == f"{PATH}/{job['id']}"
    JOB.validate_python(job, extra="forbid")
    return job


def ended(live: Live, job: dict[str, Any]) -> dict[str, Any]:
    until = time.monotonic() + 60
    while (now := live.client.get(f"{PATH}/{job['id']}").json())["state"] in ("queued", "running", "cancelling"):
        assert time.monotonic() < until, now
        time.sleep(0.05)
    JOB.validate_python(now, extra="forbid")
    return now  # type: ignore[no-any-return]


def frames(text: str) -> list[dict[str, Any]]:
    found = []
    for block in filter(None, text.split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            found.append({**fields, "data": json.loads(fields["data"])})
    return found


def refusal(reply: httpx.Response) -> tuple[int, str, str | None]:
    error = reply.json()["error"]
    return reply.status_code, error["code"], error["param"]


def test_a_job_from_its_start_to_its_end(busy: Live) -> None:
    job = asked(busy)
    assert job["state"] in ("queued", "running") and job["kind"] == "evaluate" and job["attempts"] in (0, 1)
    firm = busy.served.store.get("firm").digest[:12]
    assert job["parameters"]["profiles"] == [f"firm@{firm}"] and job["parameters"]["deterministic"] is True
    stream = busy.client.get(f"{PATH}/{job['id']}/events")
    assert stream.headers["content-type"].startswith("text/event-stream")
    told = frames(stream.text)
    assert [one["event"] for one in told] == ["state", *["progress"] * 5, "log", "end"]
    assert [int(one["id"]) for one in told] == list(range(1, 9))
    assert told[-1]["data"]["state"] == "completed" and "log" not in told[-1]["data"]
    done = ended(busy, job)
    assert done["result"]["sum"] == total(5) and done["log"] == ["all squares are there, in job"]
    assert done["progress"]["done"] == done["progress"]["total"] == 5 and done["exit_code"] == 0
    listed = busy.client.get(PATH).json()
    LIST.validate_python(listed, extra="forbid")
    assert listed["data"][0]["id"] == job["id"] and "result" not in listed["data"][0]
    again = busy.client.get(f"{PATH}/{job['id']}/events", headers={"last-event-id": "6"})
    assert [one["id"] for one in frames(again.text)] == ["7", "8"]
    nothing = busy.client.get(f"{PATH}/{job['id']}/events", headers={"last-event-id": "8"})
    assert (nothing.status_code, nothing.content) == (204, b"")
    for odd in ("-1", "x", "9" * 400, "1.5"):
        assert len(frames(busy.client.get(f"{PATH}/{job['id']}/events", headers={"last-event-id": odd}).text)) == 8


def test_cancelled_then_forgotten(busy: Live) -> None:
    job = asked(busy, seed=1000)
    busy.wait_until(lambda: busy.client.get(f"{PATH}/{job['id']}").json()["state"] == "running", 30)
    assert refusal(busy.client.post(PATH, json=EVALUATE | {"seed": 1000})) == (409, "job_already_running", None)
    assert b'unsway_jobs{state="running"} 1.0' in busy.client.get("/metrics").content
    reply = busy.client.delete(f"{PATH}/{job['id']}")
    assert reply.status_code == 200 and reply.json()["state"] in ("cancelling", "cancelled")
    assert ended(busy, job)["state"] == "cancelled"
    assert frames(busy.client.get(f"{PATH}/{job['id']}/events").text)[-1]["data"]["state"] == "cancelled"
    gone = busy.client.delete(f"{PATH}/{job['id']}").json()
    DELETED.validate_python(gone, extra="forbid")
    for reply in (busy.client.get, busy.client.delete):
        assert refusal(reply(f"{PATH}/{job['id']}")) == (404, "job_not_found", "job_id")
    assert refusal(busy.client.get(f"{PATH}/{job['id']}/events")) == (404, "job_not_found", "job_id")


def test_a_listener_that_leaves_is_let_go(busy: Live) -> None:
    job = asked(busy, seed=1001)
    for _ in range(10):
        with busy.client.stream("GET", f"{PATH}/{job['id']}/events") as stream:
            next(stream.iter_lines())
    busy.client.delete(f"{PATH}/{job['id']}")
    assert ended(busy, job)["state"] == "cancelled"
    assert not [thread for thread in threading.enumerate() if "events" in thread.name]


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"kind": "train"}, "invalid_value", "kind"),
        ({"kind": None}, "invalid_type", "kind"),
        ({"suite": ["answer"]}, "unknown_parameter", "suite"),
        ({"suites": []}, "array_below_min_length", "suites"),
        ({"suites": ["nope"]}, "invalid_value", "suites.0"),
        ({"suites": ["../../etc/passwd"]}, "invalid_value", "suites.0"),
        ({"suites": ["syco-bench"]}, "invalid_value", "suites"),
        ({"suites": ["humaneval"]}, "invalid_value", "suites"),
        ({"profiles": ["nobody"]}, "steering_profile_not_found", "profiles.0"),
        ({"profiles": ["watch"]}, "profile_observe_only", "profiles.0"),
        ({"profiles": ["broken"]}, "profile_unavailable", "profiles.0"),
        ({"data": "/etc"}, "unknown_parameter", "data"),
        ({"out": "/etc"}, "unknown_parameter", "out"),
        ({"judge_url": "http://example.org"}, "unknown_parameter", "judge_url"),
        ({"run_code": True}, "unknown_parameter", "run_code"),
        ({"owner": "me"}, "unknown_parameter", "owner"),
        ({"seed": -1}, "integer_below_min_value", "seed"),
        ({"seed": 2**40}, "integer_above_max_value", "seed"),
        ({"limit": 0}, "integer_below_min_value", "limit"),
        ({"limit": "3"}, "invalid_type", "limit"),
        ({"deterministic": 1}, "invalid_type", "deterministic"),
        ({"fail_under": ["accuracy"]}, "invalid_value", "fail_under"),
        ({"fail_over": ["nope=1"]}, "invalid_value", "fail_over"),
        ({"system": "x" * 5000}, "string_above_max_length", "system"),
        ({"system": "a\0b"}, "invalid_value", "system"),
    ],
)
def test_what_is_no_evaluation(busy: Live, change: dict[str, Any], code: str, param: str) -> None:
    reply = busy.client.post(PATH, json=EVALUATE | {"seed": 7} | change)
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == (code, param), reply.text


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"profile": "../x"}, "invalid_name", "profile"),
        ({"profile": "on"}, "invalid_name", "profile"),
        ({"profile": "x" * 60}, "invalid_name", "profile"),
        ({"questions": None}, "missing_required_parameter", "questions"),
        ({"questions": "/etc/passwd"}, "invalid_type", "questions"),
        ({"questions": []}, "array_below_min_length", "questions"),
        ({"questions": QUESTIONS[:2]}, "invalid_value", "questions"),
        ({"questions": [{"question": "Why?"}]}, "missing_required_parameter", "questions.0.correct"),
        ({"questions": [{"question": "Why?", "correct": "so", "incorrect": "so"}]}, "invalid_value", "questions"),
        ({"questions": [*QUESTIONS, {**QUESTIONS[0], "correct": "other"}]}, "invalid_value", "questions"),
        ({"questions": [QUESTIONS[0] | {"file": "x"}]}, "unknown_parameter", "questions.0.file"),
        ({"test": "dev"}, "invalid_value", "test"),
        ({"lens": "/etc/lens"}, "unknown_parameter", "lens"),
        ({"suites": ["answer"]}, "unknown_parameter", "suites"),
    ],
)
def test_what_is_no_calibration(busy: Live, change: dict[str, Any], code: str, param: str) -> None:
    reply = busy.client.post(PATH, json=CALIBRATE | change)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, code, param), reply.text
    assert len(reply.content) < 4000


def test_questions_are_counted_and_not_repeated(busy: Live) -> None:
    reply = busy.client.post(PATH, json=CALIBRATE | {"seed": 3})
    assert reply.status_code == 201, reply.text
    told = reply.json()["parameters"]
    assert told == {"profile": "steady", "questions": 200, "quick": False, "replace": False, "seed": 3}
    assert ended(busy, reply.json())["result"]["sum"] == total(3)


def test_no_path_of_the_server_is_told(busy: Live, settings: Settings) -> None:
    (settings.benchmarks / "gsm8k" / "test.jsonl").write_text("{")  # type: ignore[operator]
    reply = busy.client.post(PATH, json=EVALUATE | {"suites": ["gsm8k"]})
    assert refusal(reply) == (400, "invalid_value", "suites")
    assert str(settings.benchmarks) not in reply.text and "--benchmarks" in reply.text


def test_a_server_without_a_folder_says_what_to_set(live: Live) -> None:
    for ask in (lambda: live.client.post(PATH, json=EVALUATE), lambda: live.client.get(PATH)):
        reply = ask()
        assert refusal(reply)[:2] == (503, "jobs_unavailable") and "--jobs FOLDER" in reply.json()["error"]["message"]
        assert reply.headers["x-should-retry"] == "false"
    assert b"unsway_jobs{" not in live.client.get("/metrics").content


def test_evaluations_need_files(fake: Served, tmp_path: Path) -> None:
    with serve(lambda: fake, Settings(jobs=tmp_path)) as live:
        reply = live.client.post(PATH, json=EVALUATE)
        assert refusal(reply)[:2] == (503, "jobs_unavailable") and "--benchmarks" in reply.json()["error"]["message"]


def test_what_does_not_fit_is_refused_with_numbers(
    fake: Served, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "evaluate", REAL["evaluate"])  # type: ignore[misc]
    monkeypatch.setattr("server.jobs.obstacles.free_memory", lambda device: 2**30)
    here = Settings(jobs=tmp_path / "jobs", benchmarks=write_data(tmp_path / "data"))
    with serve(lambda: fake, here) as live:
        reply = live.client.post(PATH, json=EVALUATE)
    assert refusal(reply)[:2] == (503, "over_memory_budget") and reply.headers["x-should-retry"] == "false"
    assert "1 GiB are free" in reply.json()["error"]["message"] and "--kv-memory" in reply.json()["error"]["message"]


def test_L2_a_stream_that_the_server_ends_says_so(
    fake: Served, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "evaluate", seeded(0.05))  # type: ignore[misc]
    here = Settings(jobs=tmp_path / "jobs", benchmarks=write_data(tmp_path / "data"))
    texts: list[str] = []

    def listen(url: str) -> None:
        texts.append(httpx.get(url, timeout=60, trust_env=False).text)

    with serve(lambda: fake, here) as live:
        job = asked(live, seed=2000)
        listener = threading.Thread(target=listen, args=[f"{live.url}{PATH}/{job['id']}/events"])
        listener.start()
        live.wait_until(lambda: "progress" in live.client.get(f"{PATH}/{job['id']}").json(), 30)
        start = time.monotonic()
    listener.join(20)
    assert time.monotonic() - start < 10
    last = frames(texts[0])[-1]
    assert last["event"] == "error" and last["data"]["error"]["code"] == "server_shutdown" and "id" not in last
    assert sum(one["event"] in ("end", "error") for one in frames(texts[0])) == 1


def test_a_calibration_publishes_what_it_made(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `unsway calibrate` leaves it; twice, since a kill may come before its record."""
    folder, owner = tmp_path / "job", "address:127.0.0.1"
    saved = save_pack(simple_pack(model, name="steady"), folder / "packs" / "steady")
    (tmp_path / "none").mkdir()
    store = PackStore(tmp_path / "none", model)
    uploads = Uploads(PackFolder(tmp_path / "up"), store, model, Quota(9, 2**30, 9, 2**30))
    records = JobStore(tmp_path / "records")
    fields = {"profile": "steady", "replace": False}
    job = records.add(Asked("calibrate", owner, fields, model.fingerprint))
    plain = Served(model, FakeEngine(model), store, None, 1)  # type: ignore[arg-type]
    audited: list[dict[str, Any]] = []

    def audit(action: str, **details: Any) -> None:
        audited.append({"action": action} | details)

    def full(*arguments: object) -> None:
        raise StorageFull("no space is left")

    (alone,) = calibrated(job, folder, plain, audit)["profiles"]
    assert alone["published"] is False and "--uploads" in alone["reason"]
    served = Served(model, FakeEngine(model), store, None, 1, uploads)  # type: ignore[arg-type]
    for _ in range(2):
        assert calibrated(job, folder, served, audit)["profiles"] == [
            {"name": "steady", "digest": saved.digest, "observe_only": False, "published": True}
        ]
    once = {"action": "profile_put", "profile": "steady", "digest": saved.digest, "job": job.id, "address": "127.0.0.1"}
    assert audited == [once] and store.get("steady").digest == saved.digest
    with monkeypatch.context() as patched:
        patched.setattr(uploads, "put", full)
        save_pack(simple_pack(model, name="steady", max_strength=2.0), folder / "packs" / "steady")
        (unkept,) = calibrated(
            replace(job, asked=replace(job.asked, parameters={**fields, "replace": True})), folder, served, audit
        )["profiles"]
    assert unkept["published"] is False and unkept["reason"] == "no space is left" and len(audited) == 1
    save_pack(simple_pack(model, name="steady", max_strength=3.0), folder / "packs" / "steady")
    (kept,) = calibrated(job, folder, served, audit)["profiles"]
    assert kept["published"] is False and store.get("steady").digest == saved.digest
    records.forget(job.id)
    again = records.add(Asked("calibrate", owner, fields | {"replace": True}, model.fingerprint))
    (replaced,) = calibrated(again, folder, served, audit)["profiles"]
    assert replaced["published"] is True and store.get("steady").digest == replaced["digest"] != saved.digest
    stranger = records.add(Asked("calibrate", "key:other", fields | {"replace": True}, model.fingerprint))
    save_pack(simple_pack(model, name="steady", max_strength=4.0), folder / "packs" / "steady")
    (refused,) = calibrated(stranger, folder, served, audit)["profiles"]
    assert refused["published"] is False and "another key" in refused["reason"]
    records.close()
    uploads.close()
