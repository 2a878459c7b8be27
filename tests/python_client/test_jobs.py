"""`client.jobs` against a server whose jobs count: started, listened to, resumed, cancelled, forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from server.jobs.kinds import KINDS
from server.serving import Served
from server.settings import Settings
from steering.store import PackStore
from tests.evaluation.fakes import write_data
from tests.models import tiny_model
from tests.server.fake_engine import FakeEngine
from tests.server.jobs.kinds import seeded
from tests.server.live import Live, serve
from tests.server.packs import save_packs
from unsway_client import AsyncUnswayOpenAI, UnswayOpenAI
from unsway_client.jobs import JobEvent


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Two counts of a tenth of a second each for every unit of a job's seed."""
    folder: Path = tmp_path_factory.mktemp("jobs")
    model = replace(tiny_model(), name="tiny")
    save_packs(folder / "packs", model, tiny_model(seed=1))
    served = Served(model, FakeEngine(model), PackStore(folder / "packs", model), "candid", 1)  # type: ignore[arg-type]
    settings = Settings(jobs=folder / "jobs", benchmarks=write_data(folder / "data"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(KINDS, "evaluate", seeded(0.05))  # type: ignore[misc]
        with serve(lambda: served, settings) as live:
            yield live


@pytest.fixture
def client(busy: Live) -> Iterator[UnswayOpenAI]:
    with UnswayOpenAI(base_url=f"{busy.url}/v1", max_retries=0) as client:
        yield client


def names(events: list[JobEvent]) -> list[str]:
    return [event["event"] for event in events]


def test_a_job_from_its_beginning_to_its_end(client: UnswayOpenAI) -> None:
    job = client.jobs.create(kind="evaluate", suites=["answer"], profiles=["firm"], seed=4)
    assert job["state"] in ("queued", "running") and job["parameters"]["seed"] == 4
    events = list(client.jobs.events(job["id"]))
    last = events[-1]
    assert names(events).count("end") == 1 and last["event"] == "end" and last["data"]["state"] == "completed"
    assert {"state", "progress"} <= set(names(events))
    done = client.jobs.get(job["id"])
    assert done["state"] == "completed" and done["result"]
    assert next(listed["id"] for listed in client.jobs.list()) == job["id"]


def test_who_comes_back_hears_the_rest(client: UnswayOpenAI) -> None:
    job = client.jobs.create(kind="evaluate", suites=["answer"], seed=3)
    whole = list(client.jobs.events(job["id"]))
    rest = list(client.jobs.events(job["id"], after=whole[1]["id"]))
    assert rest == whole[2:] != []
    assert list(client.jobs.events(job["id"], after=whole[-1]["id"])) == []


def test_cancel_and_forget(client: UnswayOpenAI) -> None:
    job = client.jobs.create(kind="evaluate", suites=["answer"], seed=500)
    cancelled = client.jobs.cancel(job["id"])
    assert "state" in cancelled and cancelled["state"] in ("cancelling", "cancelled")
    *_, last = client.jobs.events(job["id"])
    assert last["event"] == "end" and last["data"]["state"] == "cancelled"
    forgotten = client.jobs.cancel(job["id"])
    assert "deleted" in forgotten and forgotten["deleted"] is True
    with pytest.raises(openai.NotFoundError) as gone:
        client.jobs.get(job["id"])
    assert gone.value.code == "job_not_found"


def test_a_wrong_job_is_refused(client: UnswayOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.jobs.create(kind="evaluate", suites=["nobody"])
    assert refused.value.param == "suites.0"


@pytest.mark.parametrize(
    ("seed", "sent", "kind", "said"),
    [
        (6, b'id: 1\nevent: log\ndata: {"line": "a"}\n\n', openai.APIConnectionError, "before its end"),
        (7, b'event: error\ndata: {"error": {"message": "It shuts down.", "code": "x"}}\n\n', openai.APIError, "shuts"),
    ],
)
def test_a_stream_that_breaks_off_is_an_error(
    client: UnswayOpenAI, seed: int, sent: bytes, kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = client.jobs.create(kind="evaluate", suites=["answer"], seed=seed)
    events = client.jobs.events(job["id"])
    monkeypatch.setattr(events.response, "iter_bytes", lambda: iter([sent]))
    with pytest.raises(kind, match=said):
        list(events)


async def test_async(busy: Live) -> None:
    async with AsyncUnswayOpenAI(base_url=f"{busy.url}/v1", max_retries=0) as client:
        job = await client.jobs.create(kind="evaluate", suites=["answer"], seed=5)
        events = [event async for event in await client.jobs.events(job["id"])]
        assert names(events)[-1] == "end" and (await client.jobs.get(job["id"]))["state"] == "completed"
        assert [event async for event in await client.jobs.events(job["id"], after=events[-1]["id"])] == []
        assert job["id"] in [listed["id"] for listed in await client.jobs.list()]
        assert "deleted" in await client.jobs.cancel(job["id"])
