"""Jobs run one at a time, end once, go on after their server, and tell who listens (L5, L6, L7, U6)."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from server.errors import ApiError, ServerShutdown
from server.jobs import obstacles, supervisor
from server.jobs.job import Asked, Job
from server.jobs.kinds import Kind
from server.jobs.store import JobStore
from server.jobs.supervisor import EVENTS, End, Jobs
from server.settings import Settings
from tests.server.jobs.kinds import COUNTING, counting, told, total

SLEEP = "import time; print('asleep', flush=True); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('awake', flush=True); time.sleep(600)"


def free(asked: Asked) -> None:
    """Nothing stands in the way."""


def nothing_served() -> Any:
    """Of which these jobs ask nothing."""


@asynccontextmanager
async def jobs_in(
    folder: Path,
    obstacle: Callable[[Asked], ApiError | None] = free,
    kinds: Mapping[str, Kind] = MappingProxyType({"count": COUNTING}),
) -> AsyncIterator[Jobs]:
    jobs = Jobs(folder, Settings(), nothing_served, kinds)
    jobs._obstacle = obstacle  # type: ignore[method-assign]
    jobs.start()
    try:
        yield jobs
    finally:
        await jobs.stop()


async def in_state(jobs: Jobs, job: Job, *states: str, seconds: float = 60.0) -> Job:
    async with asyncio.timeout(seconds):
        while (now := await jobs.get(job.id, job.asked.owner)).state not in states:
            await asyncio.sleep(0.01)
    return now


async def heard(jobs: Jobs, job: Job, after: int = 0) -> list[Any]:
    return [event async for event in jobs.events(job, after) if event is not None]


async def says(jobs: Jobs, job: Job, line: str) -> None:
    async for event in jobs.events(job, 0):
        if not isinstance(event, End) and event is not None and event.data.get("line") == line:
            return
    pytest.fail(f"it never said {line}")


async def test_from_the_queue_to_its_result(tmp_path: Path) -> None:
    async with jobs_in(tmp_path) as jobs:
        job = await jobs.submit(counting(5))
        *events, end = await heard(jobs, job)
        done = await jobs.get(job.id, "me")
    assert done.state == "completed" and done.exit_code == 0 and done.attempts == 1
    assert done.result == {"sum": total(5), "folder": ["job/sum"]}, "no path of the server's disk"
    assert [event.name for event in events] == ["state", *["progress"] * 5, "log"]
    assert [event.id for event in events] == [1, 2, 3, 4, 5, 6, 7] and isinstance(end, End) and end.id == 8
    assert end.job.state == "completed" and events[-1].data == {"line": "all squares are there, in job"}
    assert [one["id"] for one in told(tmp_path / job.id / EVENTS)] == [1, 2, 3, 4, 5, 6, 7], "the end is not stored"


async def test_who_comes_later_or_back_hears_the_rest(tmp_path: Path) -> None:
    async with jobs_in(tmp_path) as jobs:
        job = await jobs.submit(counting(6, pause=0.1))
        both = await asyncio.gather(heard(jobs, job), heard(jobs, job))
        assert both[0] == both[1] and len(both[0]) == 9
        assert await heard(jobs, await jobs.get(job.id, "me"), after=6) == both[0][6:]
        assert await heard(jobs, await jobs.get(job.id, "me"), after=99) == both[0][-1:]


async def test_one_after_the_other(tmp_path: Path) -> None:
    async with jobs_in(tmp_path) as jobs:
        first, second, third = [await jobs.submit(counting(n, pause=0.1)) for n in (5, 4, 3)]
        await in_state(jobs, first, "running")
        assert [job.state for job in await jobs.list("me")] == ["queued", "queued", "running"]
        await jobs.delete(second.id, "me")
        await in_state(jobs, third, "completed")
        assert [job.state for job in await jobs.list("me")] == ["completed", "cancelled", "completed"]
        assert (await jobs.get(first.id, "me")).ended <= (await jobs.get(third.id, "me")).started  # type: ignore[operator]
        assert jobs.counts() == {"completed": 2, "cancelled": 1}


async def test_U6_others_are_told_that_there_is_none(tmp_path: Path) -> None:
    async with jobs_in(tmp_path) as jobs:
        mine = await jobs.submit(counting(owner="me"))
        for ask in (jobs.get, jobs.delete):
            with pytest.raises(ApiError) as error:
                await ask(mine.id, "you")
            assert error.value.code == "job_not_found"
        assert await jobs.list("you") == [] and (await in_state(jobs, mine, "completed")).result


@pytest.mark.parametrize("code", [SLEEP, STUBBORN], ids=["asleep", "deaf"])
async def test_one_that_runs_is_cancelled(tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.jobs.process.GRACE", 0.5)
    async with jobs_in(tmp_path) as jobs:
        job, after = await jobs.submit(counting(code=code)), await jobs.submit(counting(2))
        await says(jobs, job, "asleep" if code == SLEEP else "awake")
        assert jobs._running is not None
        pid = jobs._running[1].pid
        assert (await jobs.delete(job.id, "me")).state in ("cancelling", "cancelled")  # type: ignore[union-attr]
        (end,) = (await heard(jobs, job))[-1:]
        assert end.job.state == "cancelled" and end.job.result is None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        await in_state(jobs, after, "completed")


async def test_one_that_ended_is_forgotten_with_its_folder(tmp_path: Path) -> None:
    async with jobs_in(tmp_path) as jobs:
        job = await in_state(jobs, await jobs.submit(counting(1)), "completed")
        assert (tmp_path / job.id / "sum").exists()
        assert await jobs.delete(job.id, "me") is None
        assert not (tmp_path / job.id).exists() and await jobs.list("me") == []
        with pytest.raises(ApiError):
            await jobs.get(job.id, "me")


@pytest.mark.parametrize(
    ("code", "exit_code", "reason"),
    [
        ("import sys; print('unsway: no such thing', file=sys.stderr); sys.exit(2)", 2, "no such thing"),
        ("raise SystemExit(70)", 70, "its process ended with 70; its log says more"),
        ("import os; os.kill(os.getpid(), 9)", -9, "its process was ended by signal 9 (perhaps for want of memory)"),
        ("pass", 0, "what it left cannot be read"),
    ],
)
async def test_why_it_failed(tmp_path: Path, code: str, exit_code: int, reason: str) -> None:
    async with jobs_in(tmp_path) as jobs:
        job = await in_state(jobs, await jobs.submit(counting(code=code)), "failed")
        assert job.exit_code == exit_code and job.reason.startswith(reason) and str(tmp_path) not in job.reason


async def test_output_without_an_end_is_bounded(tmp_path: Path) -> None:
    code = "import sys; sys.stdout.write('x' * 5_000_000); print(); print(b'\\xff\\n'.decode('latin-1'))"
    async with jobs_in(tmp_path) as jobs:
        job = await in_state(jobs, await jobs.submit(counting(code=code)), "failed")
        assert (tmp_path / job.id / EVENTS).stat().st_size < 200_000


async def test_L5_a_job_goes_on_in_the_next_server(tmp_path: Path) -> None:
    async with jobs_in(tmp_path) as jobs:
        job = await jobs.submit(counting(12, pause=0.1))
        while not (log := await jobs.log(job)).progress:
            await asyncio.sleep(0.01)
        follower = asyncio.create_task(heard(jobs, job))
        await asyncio.sleep(0.05)
    with pytest.raises(ServerShutdown):
        await follower
    done = len((tmp_path / job.id / "kept").read_text().splitlines())
    assert 1 <= done < 12 and log.events[-1].data == {"state": "interrupted"}
    async with jobs_in(tmp_path) as jobs:
        assert (await in_state(jobs, job, "completed")).result["sum"] == total(12)
        assert (await jobs.get(job.id, "me")).attempts == 2
        events = await heard(jobs, job)
    progress = [event.data["done"] for event in events if not isinstance(event, End) and event.name == "progress"]
    assert progress[0] == 1 and sorted(set(progress)) == progress and len(progress) == 12, "none of it twice"
    assert sum(isinstance(event, End) for event in events) == 1


async def test_L6_killed_between_the_work_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def dies(*arguments: object, **named: object) -> bool:
        loop.call_soon_threadsafe(reached.set)
        raise ApiError("storage_full", "as good as dead")

    with monkeypatch.context() as patched:
        patched.setattr(JobStore, "finish", dies)
        patched.setattr(JobStore, "interrupt", lambda *arguments: None)
        async with jobs_in(tmp_path) as jobs:
            job = await jobs.submit(counting(4))
            await asyncio.wait_for(reached.wait(), 30)
    assert (tmp_path / job.id / "sum").exists()
    async with jobs_in(tmp_path) as jobs:
        done = await in_state(jobs, job, "completed")
        ends = [event for event in await heard(jobs, job) if isinstance(event, End)]
    assert done.result["sum"] == total(4) and done.attempts == 2 and len(ends) == 1


async def test_what_stands_in_the_way_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RECHECK", 0.05)
    in_the_way: list[ApiError] = [ApiError("profile_model_mismatch", "It is about another model.")]
    async with jobs_in(tmp_path, lambda asked: next(iter(in_the_way), None) if asked.owner == "me" else None) as jobs:
        job = await jobs.submit(counting(1))
        other = await jobs.submit(counting(1, owner="you"))
        await in_state(jobs, other, "completed")
        waiting = await jobs.get(job.id, "me")
        assert waiting.state == "queued" and waiting.reason == "It is about another model."
        in_the_way.clear()
        assert (await in_state(jobs, job, "completed")).reason == ""


@pytest.mark.parametrize("code", ["over_memory_budget", "storage_full", "model_loading"])
async def test_what_cannot_begin_now_is_refused(tmp_path: Path, code: str) -> None:
    async with jobs_in(tmp_path, lambda asked: ApiError(code, "not now")) as jobs:
        with pytest.raises(ApiError, match="not now") as error:
            await jobs.submit(counting())
        assert error.value.code == code and await jobs.list("me") == []


async def test_L7_a_full_disk_interrupts_and_does_not_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RECHECK", 0.05)
    usage, full = shutil.disk_usage(tmp_path), tmp_path / "full"

    def disk_usage(path: object) -> Any:
        return usage._replace(free=1000) if full.exists() else usage

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    code = f"import pathlib, sys; p = pathlib.Path({str(tmp_path)!r}); f = pathlib.Path(sys.argv[1]) / 'sum'\n"
    code += "if f.exists(): f.write_text('7'); sys.exit()\n"
    code += "f.write_text(''); (p / 'full').write_text(''); sys.exit('unsway: No space left on device')"
    code = code.replace("sys.exit('unsway", "sys.stderr.write('unsway").replace("device')", "device\\n'); sys.exit(2)")

    def obstacle(asked: Asked) -> ApiError | None:
        return obstacles.disk_full(tmp_path)

    async with jobs_in(tmp_path, obstacle) as jobs:
        job = await jobs.submit(counting(code=code))
        held = await in_state(jobs, job, "interrupted")
        await asyncio.sleep(0.2)
        assert "has 1000 B left" in held.reason and (await jobs.get(job.id, "me")).attempts == 1
        with pytest.raises(ApiError) as error:
            await jobs.submit(counting(1))
        assert error.value.code == "storage_full"
        full.unlink()
        done = await in_state(jobs, job, "completed")
        assert done.result["sum"] == 7 and done.attempts == 2


async def test_L7_a_record_that_cannot_be_written_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RECHECK", 0.05)
    finish, refusals = JobStore.finish, iter(range(3))

    def sometimes(store: JobStore, job_id: str, **named: Any) -> bool:
        if next(refusals, None) is not None:
            raise ApiError("storage_full", "no")
        return finish(store, job_id, **named)

    monkeypatch.setattr(JobStore, "finish", sometimes)
    async with jobs_in(tmp_path) as jobs:
        job = await in_state(jobs, await jobs.submit(counting(2)), "completed")
        assert job.result["sum"] == total(2) and job.attempts == 1


async def test_a_listener_that_leaves_leaves_nothing(tmp_path: Path) -> None:
    async with jobs_in(tmp_path) as jobs:
        job = await jobs.submit(counting(code=SLEEP))
        await says(jobs, job, "asleep")
        before = set(asyncio.all_tasks())
        for _ in range(20):
            listener = asyncio.create_task(heard(jobs, job))
            await asyncio.sleep(0.01)
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
        async with asyncio.timeout(20):  # those that read its output come and go
            while len(asyncio.all_tasks() - before) > 1:
                await asyncio.sleep(0.05)


async def test_silence_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "KEEP_ALIVE", 0.05)
    async with jobs_in(tmp_path) as jobs:
        job = await jobs.submit(counting(code=SLEEP))
        start, quiet = time.monotonic(), 0
        async for event in jobs.events(job, 0):
            quiet += event is None
            if quiet == 3:
                break
        assert time.monotonic() - start < 30


async def test_L8_a_damaged_id_leads_to_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    async with jobs_in(tmp_path / "jobs") as jobs:
        job = await in_state(jobs, await jobs.submit(counting(1)), "completed")
        with jobs.store._transaction() as database:
            database.execute("UPDATE job SET id = '../keep' WHERE id = ?", [job.id])
        assert (await jobs.get("../keep", "me")).state == "corrupt"
        assert await jobs.delete("../keep", "me") is None
    assert (tmp_path / "keep").exists() and (tmp_path / "jobs" / job.id).exists()


async def test_one_that_waits_is_cancelled_at_once_and_who_listens_is_told(tmp_path: Path) -> None:
    async with jobs_in(tmp_path) as jobs:
        await jobs.submit(counting(code=SLEEP))
        job = await jobs.submit(counting(2))
        listener = asyncio.create_task(heard(jobs, job))
        await asyncio.sleep(0.1)
        assert (await jobs.delete(job.id, "me")).state == "cancelled"  # type: ignore[union-attr]
        (end,) = await asyncio.wait_for(listener, 10)
        assert end.job.state == "cancelled" and jobs.open_log(job) is None


async def test_L8_a_folder_that_cannot_be_read_is_one_corrupt_entry(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite3").write_bytes(b"no database" * 1000)
    async with jobs_in(tmp_path) as jobs:
        (entry,) = await jobs.list("me")
        assert entry.state == "corrupt" and "damaged" in entry.reason and jobs.counts() == {"corrupt": 1}
        with pytest.raises(ApiError, match="damaged"):
            await jobs.submit(counting())


async def test_one_that_the_server_cannot_run_is_failed_and_the_next_begins(tmp_path: Path) -> None:
    kinds = {"count": COUNTING, "odd": replace(COUNTING, command=lambda *arguments: ["echo", "a\0b"])}
    async with jobs_in(tmp_path, kinds=kinds) as jobs:
        bad, good = await jobs.submit(replace(counting(), kind="odd")), await jobs.submit(counting(2))
        failed = await in_state(jobs, bad, "failed")
        assert failed.exit_code is None and "its log says why" in failed.reason
        assert (await heard(jobs, bad))[-1].job.state == "failed"
        await in_state(jobs, good, "completed")


async def test_one_whose_obstacles_cannot_be_told_waits_alone(tmp_path: Path) -> None:
    def obstacle(asked: Asked) -> ApiError | None:
        return {"me": None}[asked.owner]

    async with jobs_in(tmp_path, obstacle) as jobs:
        bad, good = jobs.store.add(counting(owner="you")), await jobs.submit(counting(2))
        await in_state(jobs, good, "completed")
        waiting = await jobs.get(bad.id, "you")
        assert waiting.state == "queued" and "its log says why" in waiting.reason
