"""What the probes say."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class Status(TypedDict):
    status: Literal["live", "ready"]


class Health(TypedDict):
    status: Literal["ready"]
    model: str
    fingerprint: str
    context: int
    requests_running: int
    requests_waiting: int
    free_rows: int


class Version(TypedDict):
    unsway: str
    torch: str
    transformers: str
