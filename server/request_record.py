"""What one request came to, for its line in the log. Nothing of a prompt or an answer is in it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from starlette.types import Scope

_RECORD = "unsway.record"


@dataclass
class RequestRecord:
    """Filled in on the way; what stays None never came to be."""

    start: float = field(default_factory=time.perf_counter)
    code: str | None = None
    """Of the error that it ended with."""
    model: str | None = None
    profile: str | None = None
    """`off`, or `name@` and 12 digits of its digest."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    steered_tokens: int | None = None
    first_token: float | None = None
    """Seconds from the start."""

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.start


def record_of(scope: Scope) -> RequestRecord:
    record: RequestRecord = scope.setdefault(_RECORD, RequestRecord())
    return record
