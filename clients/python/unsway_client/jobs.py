"""`client.jobs`: calibrations and evaluations beside a running server, sync and async."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Literal, TypeAlias, TypedDict, cast, overload
from urllib.parse import quote

from openai import APIConnectionError, APIError, AsyncOpenAI, AsyncStream, OpenAI, Stream
from typing_extensions import Unpack

from unsway_client.types import CalibrateJob, EvaluateJob, Job, JobDeleted, JobList, JobProgress, JobSummary

ROOT = "/steering/jobs"


class StateEvent(TypedDict):
    event: Literal["state"]
    id: int
    data: dict[str, Any]
    """`state`, and of one that began `attempt`, of one that waits or was interrupted `reason`."""


class ProgressEvent(TypedDict):
    event: Literal["progress"]
    id: int
    data: JobProgress


class LogLine(TypedDict):
    line: str


class LogEvent(TypedDict):
    event: Literal["log"]
    id: int
    data: LogLine


class EndEvent(TypedDict):
    event: Literal["end"]
    id: int
    data: JobSummary


JobEvent: TypeAlias = StateEvent | ProgressEvent | LogEvent | EndEvent
"""What a job says; the last is `end`. `id`: what `after` takes."""


class JobEvents(Stream[JobEvent]):
    """The openai package's stream, with the name of each event."""

    def __stream__(self) -> Iterator[JobEvent]:
        try:
            for sse in self._iter_events():
                yield (event := _event(sse, self.response.request))
                if event["event"] == "end":
                    return
        finally:
            self.response.close()
        if self.response.status_code == 200:
            raise _broken_off(self.response.request)


class AsyncJobEvents(AsyncStream[JobEvent]):
    """The openai package's stream, with the name of each event."""

    async def __stream__(self) -> AsyncIterator[JobEvent]:
        try:
            async for sse in self._iter_events():
                yield (event := _event(sse, self.response.request))
                if event["event"] == "end":
                    return
        finally:
            await self.response.aclose()
        if self.response.status_code == 200:
            raise _broken_off(self.response.request)


class Jobs:
    def __init__(self, client: OpenAI) -> None:
        self._client = client

    @overload
    def create(self, **job: Unpack[CalibrateJob]) -> Job: ...
    @overload
    def create(self, **job: Unpack[EvaluateJob]) -> Job: ...
    def create(self, **job: Any) -> Job:
        """Starts one, or puts it in the queue."""
        return cast(Job, self._client.post(ROOT, cast_to=object, body=job))

    def list(self) -> list[JobSummary]:
        """The caller's own, newest first."""
        return cast(JobList, self._client.get(ROOT, cast_to=object))["data"]

    def get(self, job_id: str) -> Job:
        """One, with its progress, its last lines and its result."""
        return cast(Job, self._client.get(_path(job_id), cast_to=object))

    def cancel(self, job_id: str) -> Job | JobDeleted:
        """Cancels one; forgets one that has ended."""
        return cast(Job | JobDeleted, self._client.delete(_path(job_id), cast_to=object))

    def events(self, job_id: str, after: int = 0) -> JobEvents:
        """What it says, as it says it, to its end. after: the `id` of an event, to hear what came after it."""
        options: Any = {"headers": _headers(after)}
        return self._client.get(
            f"{_path(job_id)}/events", cast_to=object, options=options, stream=True, stream_cls=JobEvents
        )


class AsyncJobs:
    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client

    @overload
    async def create(self, **job: Unpack[CalibrateJob]) -> Job: ...
    @overload
    async def create(self, **job: Unpack[EvaluateJob]) -> Job: ...
    async def create(self, **job: Any) -> Job:
        """Starts one, or puts it in the queue."""
        return cast(Job, await self._client.post(ROOT, cast_to=object, body=job))

    async def list(self) -> list[JobSummary]:
        """The caller's own, newest first."""
        return cast(JobList, await self._client.get(ROOT, cast_to=object))["data"]

    async def get(self, job_id: str) -> Job:
        """One, with its progress, its last lines and its result."""
        return cast(Job, await self._client.get(_path(job_id), cast_to=object))

    async def cancel(self, job_id: str) -> Job | JobDeleted:
        """Cancels one; forgets one that has ended."""
        return cast(Job | JobDeleted, await self._client.delete(_path(job_id), cast_to=object))

    async def events(self, job_id: str, after: int = 0) -> AsyncJobEvents:
        """What it says, as it says it, to its end. after: the `id` of an event, to hear what came after it."""
        options: Any = {"headers": _headers(after)}
        return await self._client.get(
            f"{_path(job_id)}/events", cast_to=object, options=options, stream=True, stream_cls=AsyncJobEvents
        )


def _path(job_id: str) -> str:
    return f"{ROOT}/{quote(job_id, safe='')}"


def _headers(after: int) -> Mapping[str, str]:
    return {"accept": "text/event-stream", "last-event-id": str(after)}


def _event(sse: Any, request: Any) -> JobEvent:
    data = sse.json()
    if sse.event == "error":
        raise APIError(data["error"]["message"], request, body=data["error"])
    return cast(JobEvent, {"event": sse.event, "id": int(sse.id), "data": data})


def _broken_off(request: Any) -> APIConnectionError:
    return APIConnectionError(message="The events of the job broke off before its end.", request=request)
