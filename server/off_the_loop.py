"""Work for threads, so much at a time, whether those who asked for it wait for it or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")


async def off_the_loop(work: Callable[[], T], limiter: CapacityLimiter) -> T:
    """Who is cancelled waits no longer. Work that has begun cannot be stopped: it keeps its place to its end. Work that
    has not is never begun."""
    place = object()
    await limiter.acquire_on_behalf_of(place)
    running = asyncio.ensure_future(to_thread.run_sync(work))
    running.add_done_callback(lambda _: limiter.release_on_behalf_of(place))
    return await asyncio.shield(running)
