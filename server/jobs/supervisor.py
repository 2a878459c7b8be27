"""The jobs of one server: one runs at a time, the others wait; what a server left running the next one resumes."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

from server.audit import AuditLog
from server.errors import ApiError, ServerShutdown
from server.jobs.job import ENDED, WAITING, Asked, Job
from server.jobs.kinds import KINDS, Kind
from server.jobs.log import Event, JobLog, Name, parse_line
from server.jobs.obstacles import disk_full, obstacle
from server.jobs.process import Process
from server.jobs.publish import Audit
from server.jobs.store import FILE, ID, JobStore, not_found
from server.serving import Served
from server.settings import Settings
from steering.errors import SteeringError

logger = logging.getLogger(__name__)

RECHECK = 5.0
"""Seconds after which an obstacle is looked at again, and a record that could not be written is tried again."""
KEEP_ALIVE = 15.0
"""Seconds of silence after which a stream of events says that it is still there."""
EVENTS = "events.jsonl"
REFUSING = frozenset({"storage_full", "over_memory_budget", "model_loading", "draining", "engine_dead"})
"""Obstacles for which a job is not even accepted, where nothing else runs."""

T = TypeVar("T")


@dataclass(frozen=True)
class End:
    """How the stream of a job's events ends."""

    id: int
    job: Job


class Jobs:
    """All methods but `counts` are for the event loop. Whoever is not the owner of a job is told that there is none;
    owner None is whoever may deal with everybody's."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        ready: Callable[[], Served],
        kinds: Mapping[str, Kind] = KINDS,
        audit: AuditLog | None = None,
    ) -> None:
        """Raises `BadSettings`. ready: what is served; raises `ApiError` while nothing is."""
        self.store, self._folder, self._settings = JobStore(folder), folder, settings
        self._ready, self._kinds, self._audit = ready, kinds, audit or AuditLog(None)
        self._logs: dict[str, JobLog] = {}
        """Of jobs that are not finished."""
        self._held: dict[str, str] = {}
        """Job that waits -> why it cannot begin."""
        self._running: tuple[str, Process] | None = None
        self._wake = asyncio.Event()
        self._threads = CapacityLimiter(4)
        self.checking = CapacityLimiter(1)
        """What is asked for is read by one thread at a time, and not in the places of chats: it may be long."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    def start(self) -> None:
        if not self.store.broken:
            self._spawn(self._work())

    def end_streams(self) -> None:
        """The server ends: who listens is told, and nobody waits for a job."""
        self._stopped = True
        for log in self._logs.values():
            log.publish()

    async def stop(self) -> None:
        """The job that runs is interrupted."""
        self.end_streams()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.store.close()

    # What callers ask for.

    async def submit(self, asked: Asked) -> Job:
        error = None if self._running else await self._do(self._obstacle, asked)
        if error is not None and error.code in REFUSING:
            raise error
        if error := await self._do(disk_full, self._folder):
            raise error
        job = await self._do(self.store.add, asked)
        self._wake.set()
        return job

    async def list(self, owner: str | None) -> list[Job]:
        """Newest first, without results; one corrupt entry where no record can be read."""
        if self.store.broken:
            return [Job(FILE, Asked("", owner or "", {}, ""), "corrupt", created=0.0, reason=self.store.broken)]
        return [self._explained(job) for job in reversed(await self._do(self.store.all, owner))]

    def counts(self) -> Mapping[str, int]:
        """Jobs of everybody, by state. Touches the disk: not for the event loop."""
        return {"corrupt": 1} if self.store.broken else self.store.counts()

    async def get(self, job_id: str, owner: str | None) -> Job:
        job = await self._do(self.store.get, job_id)
        if owner is not None and job.asked.owner != owner:
            raise not_found(job_id)
        return self._explained(job)

    def open_log(self, job: Job) -> JobLog | None:
        """Of one that is not finished, where somebody has looked at it or it runs."""
        return self._logs.get(job.id)

    async def log(self, job: Job) -> JobLog:
        path = self._folder / job.id / EVENTS
        if job.state in ENDED:
            open_log = self._logs.get(job.id)
            return open_log if open_log is not None else await self._do(JobLog, path)
        if job.id not in self._logs:
            read = await self._do(JobLog, path)
            self._logs.setdefault(job.id, read)
        return self._logs[job.id]

    async def delete(self, job_id: str, owner: str | None) -> Job | None:
        """Cancels; one that has ended is forgotten, with all that it left in its folder (None)."""
        job = await self.get(job_id, owner)
        if job.state in ENDED:
            if ID.fullmatch(job.id):
                await self._do(shutil.rmtree, self._folder / job.id, True)
            await self._do(self.store.forget, job.id)
            return None
        await self._do(self.store.cancel, job.id)
        if self._running is not None and self._running[0] == job.id:
            self._spawn(self._running[1].stop())
        told = await self.get(job_id, owner)
        if told.state in ENDED:
            self._close_log(told)
        return told

    async def events(self, job: Job, after: int) -> AsyncGenerator[Event | End | None, None]:
        """Those that the log has after this one, then those that come, None now and then, and the end.

        Raises `ServerShutdown` where the server ends before the job.
        """
        log = await self.log(job)
        while True:
            changed = log.changed
            if self._stopped:
                raise ServerShutdown("The server is shutting down; the job goes on when it is back.")
            state = await self._do(self.store.state, job.id)
            for event in log.after(after):
                after = event.id
                yield event
            if state in ENDED:
                yield End(log.end_id, await self._do(self.store.get, job.id))
                return
            try:
                async with asyncio.timeout(KEEP_ALIVE):
                    await changed.wait()
            except TimeoutError:
                yield None

    # What runs them.

    async def _work(self) -> None:
        await self._insist(self.store.recover)
        while True:
            try:
                await self._attempt(await self._next())
            except ApiError as error:  # of the store or the disk: the job is as it was, and tried again
                logger.warning("jobs: %s", error.message)
                await asyncio.sleep(RECHECK)

    async def _attempt(self, job: Job) -> None:
        """Whatever is wrong with one job, the others get their turn."""
        try:
            await self._run(job)
        except ApiError:
            raise
        except Exception:
            logger.exception("the server failed at job %s", job.id)
            await self._finish(job, None, "the server could not run it, and its log says why")

    async def _next(self) -> Job:
        """The first that can begin."""
        while True:
            self._wake.clear()
            waiting = await self._insist(self.store.waiting)
            self._held = {job.id: self._held[job.id] for job in waiting if job.id in self._held}
            for job in waiting:
                error = await self._do(self._before, job)
                if error is None:
                    self._held.pop(job.id, None)
                    return job
                self._held[job.id] = error.message
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK if self._held else None):
                    await self._wake.wait()

    def _before(self, job: Job) -> ApiError | None:
        """What stands in its way, as far as that can be told."""
        try:
            return self._obstacle(job.asked)
        except Exception:
            logger.exception("the server cannot tell whether job %s may begin", job.id)
            return ApiError("internal_error", "The server cannot tell whether it may begin, and its log says why.")

    def _obstacle(self, asked: Asked) -> ApiError | None:
        if asked.kind not in self._kinds:
            return ApiError("jobs_unavailable", f"This version has no jobs of the kind {asked.kind[:40]!r}.")
        return obstacle(asked, self._kinds[asked.kind], self._ready, self._folder)

    async def _run(self, job: Job) -> None:
        if not await self._do(self.store.begin, job.id):
            return
        log = await self.log(job)
        try:
            process = await self._started(job, log)
            self._running = (job.id, process)
            try:
                if await self._do(self.store.state, job.id) == "cancelling":
                    await process.stop()
                async for lines in process.lines():
                    await self._say(log, *(parse_line(self._blind(line, job.id)) for line in lines))
                exit_code = await process.wait()
            finally:
                self._running = None
                await asyncio.shield(process.stop())
        except asyncio.CancelledError:
            await self._do(log.add, ("state", {"state": "interrupted"}))
            await self._do(self.store.interrupt, job.id, "the server was stopped")
            raise
        except (OSError, ApiError) as error:
            reason = error.message if isinstance(error, ApiError) else str(error.strerror)
            await self._insist(self.store.interrupt, job.id, reason)
            await asyncio.sleep(RECHECK)
        except SteeringError as error:
            await self._finish(job, 2, self._blind(str(error), job.id))
        else:
            await self._end(job, log, exit_code)

    async def _started(self, job: Job, log: JobLog) -> Process:
        folder = self._folder / job.id
        await self._do(lambda: folder.mkdir(exist_ok=True))
        await self._say(log, ("state", {"state": "running", "attempt": job.attempts + 1}))
        command = self._kinds[job.asked.kind].command
        return await Process.start(await self._do(command, job, folder, self._settings, self._ready()))

    async def _end(self, job: Job, log: JobLog, exit_code: int) -> None:
        """Result and state are on record at once, or not at all: a job that a kill meets before is run once more, and
        finds all that it did."""
        result, reason = None, _reason(exit_code, log)
        cancelled = await self._insist(self.store.state, job.id) == "cancelling"
        if not reason and not cancelled:
            try:
                read, folder = self._kinds[job.asked.kind].result, self._folder / job.id
                result = self._blind(await self._do(read, job, folder, self._ready(), self._audited()), job.id)
            except ApiError as error:  # nothing is served any more
                await self._insist(self.store.interrupt, job.id, error.message)
                return
            except (OSError, ValueError, KeyError, SteeringError) as error:
                reason = self._blind(f"what it left cannot be read: {error}", job.id)
        if reason and not cancelled and (full := await self._do(disk_full, self._folder)):
            await self._insist(self.store.interrupt, job.id, full.message)
            await self._say(log, ("state", {"state": "interrupted", "reason": full.message}))
            return
        await self._finish(job, exit_code, reason, result)

    async def _finish(self, job: Job, exit_code: int | None, reason: str, result: Any = None) -> None:
        await self._insist(lambda: self.store.finish(job.id, exit_code=exit_code, reason=reason, result=result))
        self._close_log(job)

    def _close_log(self, job: Job) -> None:
        """Who listens is told that it has ended."""
        if (log := self._logs.pop(job.id, None)) is not None:
            log.publish()

    async def _say(self, log: JobLog, *said: tuple[Name, Mapping[str, Any]]) -> None:
        await self._do(log.add, *said)
        log.publish()

    def _explained(self, job: Job) -> Job:
        """One that waits says for what."""
        return replace(job, reason=self._held[job.id]) if job.state in WAITING and job.id in self._held else job

    def _blind(self, told: Any, job_id: str) -> Any:
        """The same without paths of the server's disk, in the folders that a job is told of."""
        if isinstance(told, str):
            named = {str(self._folder / job_id): "job", str(self._settings.benchmarks): "benchmarks"}
            for path, name in {**named, str(self._settings.packs): "packs"}.items():
                told = told.replace(path, name) if path != "None" else told
            return told
        if isinstance(told, list):
            return [self._blind(one, job_id) for one in told]
        return {key: self._blind(one, job_id) for key, one in told.items()} if isinstance(told, dict) else told

    async def _do(self, work: Callable[..., T], *arguments: Any) -> T:
        """What touches the disk, off the event loop."""
        return await to_thread.run_sync(work, *arguments, limiter=self._threads)

    async def _insist(self, work: Callable[..., T], *arguments: Any) -> T:
        """Until the disk takes it."""
        while True:
            try:
                return await self._do(work, *arguments)
            except ApiError as error:
                if error.code != "storage_full":
                    raise
                logger.warning("jobs: %s", error.message)
                await asyncio.sleep(RECHECK)

    def _audited(self) -> Audit:
        """Writes to the audit log, which is the event loop's, from any thread."""
        loop = asyncio.get_running_loop()

        def audit(*done: Any, **details: Any) -> None:
            loop.call_soon_threadsafe(partial(self._audit.write, *done, **details))

        return audit

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of jobs ended", exc_info=error)


def _reason(exit_code: int, log: JobLog) -> str:
    """Why it failed; "" if it did not."""
    if exit_code in (0, 1):
        return ""
    if exit_code < 0:
        return f"its process was ended by signal {-exit_code}" + (" (perhaps for want of memory)" * (exit_code == -9))
    said = [line.removeprefix("unsway: ") for line in log.lines(20) if line.startswith("unsway: ")]
    return said[-1] if said else f"its process ended with {exit_code}; its log says more"
