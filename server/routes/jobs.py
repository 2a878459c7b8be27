"""/v1/steering/jobs: calibrations and evaluations in the background"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.audit import audit
from server.caller import caller_in, caller_of, is_admin
from server.deps import Background, Config, Loaded, json_body
from server.errors import to_api_error
from server.jobs.job import ENDED
from server.jobs.job import Job as Record
from server.jobs.supervisor import End, Jobs
from server.off_the_loop import off_the_loop
from server.schemas.jobs import Job, JobDeleted, JobList
from server.sse import EventStream, event_frame
from server.translate import jobs as wire

router = APIRouter()

_PATH = "/v1/steering/jobs"


@router.post(
    _PATH,
    operation_id="create_job",
    summary="Starts a calibration or an evaluation, or puts it in the queue",
    status_code=201,
    responses={201: {"model": Job}},
)
async def create_job(request: Request, jobs: Background, served: Loaded, config: Config) -> Response:
    body, scope = await json_body(request), request.scope
    work = partial(wire.prepare, body, caller_of(scope), caller_in(scope), served, config)
    asked = await off_the_loop(work, jobs.checking)

    async def submitted() -> Record:
        job = await jobs.submit(asked)
        audit(scope, "job_created", job=job.id)
        return job

    job = await asyncio.shield(submitted())  # on record, it is told and begun, whether the client waits or not
    return JSONResponse(wire.document(job, None), 201, {"location": f"{_PATH}/{job.id}"})


@router.get(
    _PATH,
    operation_id="list_jobs",
    summary="The caller's jobs, newest first; with the scope admin everybody's",
    responses={200: {"model": JobList}},
)
async def list_jobs(request: Request, jobs: Background) -> Response:
    found = [wire.document(job, jobs.open_log(job), whole=False) for job in await jobs.list(_whose(request))]
    return JSONResponse({"object": "list", "data": found})


@router.get(
    _PATH + "/{job_id}",
    operation_id="retrieve_job",
    summary="One job with its progress, its last lines and its result",
    responses={200: {"model": Job}},
)
async def retrieve_job(job_id: str, request: Request, jobs: Background) -> Response:
    job = await jobs.get(job_id, _whose(request))
    return JSONResponse(wire.document(job, await jobs.log(job)))


@router.delete(
    _PATH + "/{job_id}",
    operation_id="delete_job",
    summary="Cancels a job; one that has ended is forgotten",
    responses={200: {"model": Job | JobDeleted}},
)
async def delete_job(job_id: str, request: Request, jobs: Background) -> Response:
    async def deleted() -> Record | None:
        job = await jobs.delete(job_id, _whose(request))
        audit(request.scope, "job_forgotten" if job is None else "job_cancelled", job=job_id)
        return job

    job = await asyncio.shield(deleted())
    if job is None:
        return JSONResponse({"id": job_id, "object": "steering.job.deleted", "deleted": True})
    return JSONResponse(wire.document(job, await jobs.log(job)))


@router.get(
    _PATH + "/{job_id}/events",
    operation_id="stream_job_events",
    summary="What the job says as server-sent events: `state`, `progress` and `log`, then one `end`, or `error`",
    responses={
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "It has ended, and the client has all of it: it need not come back"},
    },
    response_class=Response,
)
async def stream_job_events(
    job_id: str, request: Request, jobs: Background, last_event_id: Annotated[str, Header()] = ""
) -> Response:
    job = await jobs.get(job_id, _whose(request))
    after = int(last_event_id) if last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 16 else 0
    if job.state in ENDED and after >= (await jobs.log(job)).end_id:
        return Response(status_code=204)
    return EventStream(b": events of this job\n\n", _frames(jobs, job, after), {})


def _whose(request: Request) -> str | None:
    """Jobs that a request may see and change: its caller's, or everybody's."""
    return None if is_admin(request.scope) else caller_of(request.scope)


async def _frames(jobs: Jobs, job: Record, after: int) -> AsyncGenerator[bytes, None]:
    """Ends with exactly one frame named `end` or `error`."""
    async with aclosing(jobs.events(job, after)) as events:
        try:
            async for event in events:
                match event:
                    case None:
                        yield b": still here\n\n"
                    case End():
                        yield event_frame(event.id, "end", wire.end_document(event))
                    case _:
                        yield event_frame(event.id, event.name, event.data)
        except Exception as error:  # never end a stream without a word
            yield event_frame(None, "error", dict(to_api_error(error).reply()))
