"""The ASGI application: middleware, handlers and routes around one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata

from anyio import CapacityLimiter
from fastapi import FastAPI

from server.async_engine import AsyncEngine
from server.auth import RequireKey
from server.configuration import Configuration, Source
from server.disconnect import CancelOnDisconnect
from server.errors import install_handlers
from server.metrics import Metrics
from server.request_id import RequestId
from server.routes import chat, completions, config, health, lens, metrics, models, page, profiles, traces, verify
from server.schemas.document import describe
from server.settings import Settings
from server.traces import TraceStore

MAX_PREPARING = 2
"""Requests parsed, rendered and tokenized at the same time, off the event loop; the engine needs the processor too."""
MAX_COMPILING = 1
"""Schemas of answers compiled at the same time, each in a process of its own."""
STOP_TIMEOUT = 10.0
"""Seconds the engine thread has to end its step at shutdown."""


def create_app(settings: Settings, engine: AsyncEngine, sources: Mapping[str, Source] | None = None) -> FastAPI:
    """The engine is started with the application: connections are accepted while the model loads.

    sources: who asked for each setting, where that is known.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.stop()
        await engine.join(STOP_TIMEOUT)

    app = FastAPI(
        title="Unsway",
        version=metadata.version("unsway"),
        description="OpenAI's chat completions and completions with activation steering per request.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings, app.state.engine = settings, engine
    app.state.configuration = Configuration(settings, sources or {}, file=None)
    app.state.traces = TraceStore()
    app.state.metrics = Metrics(engine, app.state.traces)
    app.state.preparing, app.state.compiling = CapacityLimiter(MAX_PREPARING), CapacityLimiter(MAX_COMPILING)
    # The last one added is the outermost.
    if settings.api_key is not None:
        app.add_middleware(RequireKey, key=settings.api_key)
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(RequestId)
    install_handlers(app)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    for module in (chat, completions, models, profiles, config, traces, lens, verify, health, metrics, page):
        app.include_router(module.router)
    return app
