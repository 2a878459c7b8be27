"""Receipts and traces of finished requests, kept for a while for clients that drop what they do not know."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MAX_TRACE = 4 * 1024 * 1024
"""Bytes of one, as JSON; tokens beyond are left out, and that is said."""
MAX_TRACES = 64 * 1024 * 1024
"""Bytes of all."""
OVERHEAD = 512
"""Bytes that one takes beside its JSON, at most."""


@dataclass(frozen=True)
class _Kept:
    document: bytes
    owner: str | None
    until: float


class TraceStore:
    """Documents by id; the oldest give way. They are kept as what is sent, so what they take is known exactly."""

    def __init__(self, seconds: float, *, limit: int = MAX_TRACES, clock: Callable[[], float] = time.monotonic) -> None:
        """seconds: how long one is kept; 0: none is."""
        self.seconds, self._limit, self._clock = seconds, limit, clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        """Oldest first, which is the order in which they expire."""
        self.nbytes = 0

    def put(self, trace_id: str, document: bytes, owner: str | None = None) -> None:
        """owner: whose it is (`caller_of`)."""
        self._drop_expired()
        self._drop(trace_id)
        if self.seconds == 0:
            return
        self._kept[trace_id] = _Kept(document, owner, self._clock() + self.seconds)
        self.nbytes += len(document) + OVERHEAD
        while self.nbytes > self._limit:
            self._drop(next(iter(self._kept)))

    def get(self, trace_id: str, owner: str | None = None) -> bytes | None:
        """None: unknown, expired, given up for newer ones, or another's."""
        self._drop_expired()
        kept = self._kept.get(trace_id)
        return None if kept is None or kept.owner != owner else kept.document

    def _drop_expired(self) -> None:
        while self._kept and (oldest := next(iter(self._kept))) and self._kept[oldest].until <= self._clock():
            self._drop(oldest)

    def _drop(self, trace_id: str) -> None:
        kept = self._kept.pop(trace_id, None)
        self.nbytes -= 0 if kept is None else len(kept.document) + OVERHEAD
