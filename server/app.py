"""The ASGI application: middleware, handlers and routes around one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata

from anyio import CapacityLimiter
from fastapi import Depends, FastAPI

from server.access import check_access
from server.async_engine import AsyncEngine
from server.audit import AuditLog
from server.auth import Authenticate
from server.configuration import Configuration, Source
from server.disconnect import CancelOnDisconnect
from server.errors import install_handlers
from server.hosts import AllowedHosts, allowed_hosts
from server.jobs.supervisor import Jobs
from server.keys import KeyRing
from server.metrics import Metrics
from server.request_id import RequestId
from server.request_log import RequestLog
from server.routes import (
    chat,
    completions,
    config,
    health,
    jobs,
    lens,
    me,
    metrics,
    models,
    page,
    profiles,
    responses,
    traces,
    uploads,
    verify,
)
from server.schemas.document import describe
from server.settings import Settings
from server.traces import TraceStore
from server.uploading import Uploading

ROUTES = (
    *(chat, completions, responses, models),
    *(profiles, uploads, traces, lens, verify, jobs, config, me),
    *(health, metrics, page),
)
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
        if app.state.jobs is not None:
            app.state.jobs.start()
        yield
        engine.stop()
        if app.state.jobs is not None:
            await app.state.jobs.stop()
        await app.state.uploading.close(STOP_TIMEOUT)
        await engine.join(STOP_TIMEOUT)
        app.state.audit.close()

    app = FastAPI(
        title="Unsway",
        version=metadata.version("unsway"),
        description="OpenAI's chat completions and completions with activation steering per request.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(check_access)],
    )
    app.state.settings, app.state.engine = settings, engine
    app.state.configuration = Configuration(settings, sources or {}, file=None)
    app.state.audit = AuditLog(settings.audit_log)
    app.state.traces = TraceStore(settings.trace_seconds)
    app.state.jobs = _jobs(settings, engine, app.state.audit)
    app.state.metrics = Metrics(engine, app.state.traces, app.state.jobs)
    app.state.preparing, app.state.compiling = CapacityLimiter(MAX_PREPARING), CapacityLimiter(MAX_COMPILING)
    app.state.uploading = Uploading()
    # The last one added is the outermost.
    app.add_middleware(Authenticate, keys=KeyRing(settings.api_key, settings.keys))
    app.add_middleware(CancelOnDisconnect)
    if (hosts := allowed_hosts(settings)) is not None:
        app.add_middleware(AllowedHosts, hosts=hosts)
    app.add_middleware(RequestLog)
    app.add_middleware(RequestId)
    install_handlers(app)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    app.state.routes = [route for part in (app, *(module.router for module in ROUTES)) for route in part.routes]
    for module in ROUTES:
        app.include_router(module.router)
    return app


def _jobs(settings: Settings, engine: AsyncEngine, audit: AuditLog) -> Jobs | None:
    """Raises `BadSettings`."""
    if settings.jobs is None:
        return None
    return Jobs(settings.jobs, settings, engine.require_ready, audit=audit)
