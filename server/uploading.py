"""Uploads on their way in: from the wire to a file, from there to a profile. A few at a time, and none in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request

from server.audit import audit
from server.deps import check_announced, too_large
from server.errors import ApiError
from server.translate.uploads import Change
from steering.errors import SteeringError
from steering.pack import Pack
from steering.uploads import Uploads

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_RECEIVING = 4
"""Uploads received at the same time; more wait before they are read."""
MAX_RECEIVING_EACH = 2
"""Of one key, or without keys of one address: so none keeps all others waiting."""
PIECE_TIMEOUT = 30.0
"""Seconds in which something of it must arrive."""
UPLOAD_TIMEOUT = 300.0
"""Seconds for a whole file to arrive."""
_TYPES = ("application/octet-stream", "")


class Uploading:
    """Of one server. What was received is brought to its end and into the audit log, whether the client waits for it or
    not."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MAX_RECEIVING)
        self._own = WeakValueDictionary[str, asyncio.Semaphore]()
        """By owner, as long as somebody waits for or holds a place."""
        self._changing = CapacityLimiter(1)
        self._running = set[asyncio.Task[Any]]()

    async def put(self, request: Request, uploads: Uploads, change: Change, most: int) -> Pack:
        """The profile that the request's body makes, of at most so many bytes; read only if not refused before."""
        check_announced(request, _TYPES, most)
        uploads.check(change.name, change.by, change.expected)
        return await self._to_its_end(self._put(request, uploads, change, most))

    async def delete(self, request: Request, uploads: Uploads, change: Change) -> None:
        await self._to_its_end(self._delete(request, uploads, change))

    async def close(self, timeout: float) -> None:
        """Waits for changes that nobody waits for any more."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout)

    async def _to_its_end(self, change: Coroutine[None, None, T]) -> T:
        task = asyncio.ensure_future(change)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_ended_alone)
            raise

    async def _put(self, request: Request, uploads: Uploads, change: Change, most: int) -> Pack:
        own = self._own.setdefault(change.by.owner, asyncio.Semaphore(MAX_RECEIVING_EACH))
        async with own, self._places:
            file = uploads.folder.part()
            try:
                with uploads.folder.writing():
                    await _receive(request, file, most)
                put = partial(uploads.put, change.name, file, change.by, change.expected)
                pack = await to_thread.run_sync(put, limiter=self._changing)
                audit(request.scope, "profile_put", profile=change.name, digest=pack.digest)
                return pack
            finally:
                with suppress(OSError):  # the next start clears away what is left
                    file.unlink()

    async def _delete(self, request: Request, uploads: Uploads, change: Change) -> None:
        await to_thread.run_sync(partial(uploads.delete, *change), limiter=self._changing)
        audit(request.scope, "profile_deleted", profile=change.name)


def _ended_alone(task: asyncio.Task[Any]) -> None:
    """Nobody waits for it any more; an error that is not the sender's is for the log."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, (ClientDisconnect, ApiError, SteeringError)):
        logger.error("a change of a profile failed after its client had left", exc_info=error)


async def _receive(request: Request, file: Path, most: int) -> None:
    received, clock = 0, asyncio.get_running_loop().time
    end = clock() + UPLOAD_TIMEOUT
    try:
        async with asyncio.timeout(PIECE_TIMEOUT) as patience, await anyio.open_file(file, "xb") as target:
            async for piece in request.stream():
                patience.reschedule(min(end, clock() + PIECE_TIMEOUT))
                received += len(piece)
                if received > most:
                    raise too_large(most)
                await target.write(piece)
    except TimeoutError:
        message = f"The file did not arrive within {UPLOAD_TIMEOUT:g} seconds, or nothing of it for {PIECE_TIMEOUT:g}."
        raise ApiError("request_timeout", message) from None
