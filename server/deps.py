"""What routes need of the running server and of their request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request

from server.async_engine import AsyncEngine
from server.configuration import Configuration
from server.errors import ApiError
from server.jobs.supervisor import Jobs
from server.metrics import Metrics
from server.serving import Served
from server.settings import Settings
from server.traces import TraceStore

MAX_BODY = 4 * 1024 * 1024
BODY_TIMEOUT = 30.0
"""Seconds for a whole body to arrive."""


def _state(name: str) -> Callable[[Request], Any]:
    """What `create_app` keeps under this name."""

    def state(request: Request) -> Any:
        return getattr(request.app.state, name)

    return state


Engine = Annotated[AsyncEngine, Depends(_state("engine"))]
Config = Annotated[Settings, Depends(_state("settings"))]
Configured = Annotated[Configuration, Depends(_state("configuration"))]
Traces = Annotated[TraceStore, Depends(_state("traces"))]
Counted = Annotated[Metrics, Depends(_state("metrics"))]


def _jobs(request: Request) -> Jobs:
    """503 where the server was not told to run any."""
    jobs: Jobs | None = request.app.state.jobs
    if jobs is None:
        raise ApiError("jobs_unavailable", "This server runs no jobs: start it with --jobs FOLDER (UNSWAY_JOBS).")
    return jobs


Background = Annotated[Jobs, Depends(_jobs)]


def _served(engine: Engine) -> Served:
    """503 until the model is loaded, and after the engine has ended."""
    return engine.require_ready()


Loaded = Annotated[Served, Depends(_served)]


async def json_body(request: Request) -> bytes:
    """The body, which says that it is JSON. Nothing is inflated, guessed or read beyond the limit."""
    check_announced(request, ("application/json",), MAX_BODY)
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await _read(request)
    except TimeoutError:
        raise ApiError("request_timeout", f"The body did not arrive within {BODY_TIMEOUT:g} seconds.") from None


def check_announced(request: Request, types: Sequence[str], most: int) -> None:
    """What the headers say of a body: its type (the first one is named in the error), its encoding, its bytes."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in types:
        raise ApiError("unsupported_media_type", f"The body must be sent as content-type: {types[0]}.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError("unsupported_media_type", "The body must be sent without content-encoding.")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > most:
        raise too_large(most)


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise too_large(MAX_BODY)
    return bytes(body)


def too_large(most: int) -> ApiError:
    return ApiError("request_too_large", f"The body may have at most {most:,} bytes.", headers={"connection": "close"})
