"""What routes need of the running server and of their request."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from server.async_engine import AsyncEngine
from server.configuration import Configuration
from server.errors import ApiError
from server.serving import Served
from server.settings import Settings
from server.traces import TraceStore

MAX_BODY = 4 * 1024 * 1024
BODY_TIMEOUT = 30.0
"""Seconds for a whole body to arrive."""


def _engine(request: Request) -> AsyncEngine:
    engine: AsyncEngine = request.app.state.engine
    return engine


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _configuration(request: Request) -> Configuration:
    configuration: Configuration = request.app.state.configuration
    return configuration


def _traces(request: Request) -> TraceStore:
    traces: TraceStore = request.app.state.traces
    return traces


def _served(engine: Annotated[AsyncEngine, Depends(_engine)]) -> Served:
    """503 until the model is loaded, and after the engine has ended."""
    return engine.require_ready()


Engine = Annotated[AsyncEngine, Depends(_engine)]
Config = Annotated[Settings, Depends(_settings)]
Configured = Annotated[Configuration, Depends(_configuration)]
Traces = Annotated[TraceStore, Depends(_traces)]
Loaded = Annotated[Served, Depends(_served)]


async def json_body(request: Request) -> bytes:
    """The body, which says that it is JSON. Nothing is inflated, guessed or read beyond the limit."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError("unsupported_media_type", "The body must be sent as content-type: application/json.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError("unsupported_media_type", "The body must be sent without content-encoding.")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > MAX_BODY:
        raise _too_large()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await _read(request)
    except TimeoutError:
        raise ApiError("request_timeout", f"The body did not arrive within {BODY_TIMEOUT:g} seconds.") from None


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise _too_large()
    return bytes(body)


def _too_large() -> ApiError:
    return ApiError(
        "request_too_large", f"The body may have at most {MAX_BODY:,} bytes.", headers={"connection": "close"}
    )
