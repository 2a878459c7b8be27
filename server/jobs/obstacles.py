"""Why a job cannot begin now: another model, no room on the disk, no memory beside the server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from server.errors import ApiError
from server.jobs.job import Asked
from server.jobs.kinds import Kind
from server.serving import Served
from server.size import readable
from steering.model.free_memory import free_memory

LEAST_DISK = 16 << 20
"""Bytes that must be free where jobs keep what they measure."""


def obstacle(asked: Asked, kind: Kind, ready: Callable[[], Served], folder: Path) -> ApiError | None:
    """None if it can begin. ready: what is served; raises `ApiError` while nothing is."""
    try:
        served = ready()
    except ApiError as error:
        return error
    if asked.model != served.model.fingerprint:
        return ApiError("profile_model_mismatch", f"It is about another model than {served.model.name}, served now.")
    return disk_full(folder) or _memory(asked, kind, served)


def disk_full(folder: Path) -> ApiError | None:
    free = shutil.disk_usage(folder).free
    if free >= LEAST_DISK:
        return None
    return ApiError(
        "storage_full", f"The disk of the jobs folder has {readable(free)} left; a job needs {readable(LEAST_DISK)}."
    )


def _memory(asked: Asked, kind: Kind, served: Served) -> ApiError | None:
    """What the server's own keys and values may still grow by is not free."""
    needed, free = kind.memory(asked.parameters, served.model), free_memory(served.model.device)
    reserved = max(0, served.engine.kv.budget - served.engine.kv_bytes)
    if free is None or needed <= free - reserved:
        return None
    message = (
        f"It needs about {readable(needed)} of memory for a model of its own; beside the server there are "
        f"{readable(max(0, free - reserved))}: {readable(free)} are free, of which its keys and values may still take "
        f"{readable(reserved)} (--kv-memory)."
    )
    return ApiError("over_memory_budget", message, headers={"x-should-retry": "false"})
