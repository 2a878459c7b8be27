"""Probes and versions."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter

from server.deps import Engine, Loaded, Traces
from server.errors import ApiError
from server.schemas.health import Health, Status, Version

router = APIRouter()


@router.get("/health/live", operation_id="health_live", summary="The process is up")
async def live(engine: Engine) -> Status:
    if engine.state in ("failed", "dead"):
        raise ApiError("engine_dead", "The engine has stopped by an error.")
    return {"status": "live"}


@router.get("/health/ready", operation_id="health_ready", summary="Requests are answered")
async def ready(served: Loaded) -> Status:
    return {"status": "ready"}


@router.get("/health", operation_id="health", summary="What is served, and how much of it is in use")
async def health(served: Loaded, engine: Engine, traces: Traces) -> Health:
    cache = served.engine.prefix_cache
    return {
        "status": "ready",
        "model": served.model.name,
        "fingerprint": served.model.fingerprint,
        "context": served.engine.context,
        "requests_running": served.engine.num_running,
        "requests_waiting": served.engine.num_waiting,
        "free_rows": served.engine.free_rows,
        "requests_open": engine.num_open,
        "preemptions": served.engine.num_preemptions,
        "kv_bytes": served.engine.kv_bytes,
        "kv_budget": served.engine.kv.budget,
        "trace_bytes": traces.nbytes,
        "prefix_cache": {"queries": cache.queries, "hits": cache.hits, "bytes": cache.nbytes},
    }


@router.get("/version", operation_id="version", summary="What this server is made of")
async def versions() -> Version:
    return {"unsway": version("unsway"), "torch": version("torch"), "transformers": version("transformers")}
