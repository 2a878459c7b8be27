"""What the probes say."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class Status(TypedDict):
    status: Literal["live", "ready"]


class PrefixCache(TypedDict):
    """Tokens, so far."""

    queries: int
    """Looked for."""
    hits: int
    """Found, and not computed again."""
    bytes: int
    """Held now."""


class Health(TypedDict):
    status: Literal["ready"]
    model: str
    fingerprint: str
    context: int
    requests_open: int
    """That are not answered yet."""
    requests_running: int
    """Answers that are generated now."""
    requests_waiting: int
    """Answers that wait for a row."""
    free_rows: int
    preemptions: int
    """So far: answers that lost their memory to others and were computed again."""
    kv_bytes: int
    """Taken by keys and values now, the prefix cache among them."""
    kv_budget: int
    trace_bytes: int
    """Taken by traces of requests that ended, which are kept for a while."""
    prefix_cache: PrefixCache


class Version(TypedDict):
    unsway: str
    torch: str
    transformers: str
