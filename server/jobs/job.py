"""One job: what was asked, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["queued", "running", "interrupted", "cancelling", "completed", "failed", "cancelled", "corrupt"]
"""interrupted: it was running when the server ended, and goes on in its turn; corrupt: its record is damaged."""

WAITING: tuple[State, ...] = ("queued", "interrupted")
UNFINISHED: tuple[State, ...] = (*WAITING, "running", "cancelling")
ENDED: tuple[State, ...] = ("completed", "failed", "cancelled", "corrupt")


@dataclass(frozen=True)
class Asked:
    """What somebody wants to have done, checked."""

    kind: str
    owner: str
    """`caller_of` the request."""
    parameters: Mapping[str, Any]
    """JSON, defaults filled in: equal ones ask for the same. Of `questions` their number once the job has ended."""
    model: str
    """Fingerprint of the model that it is about."""


@dataclass(frozen=True)
class Job:
    id: str
    asked: Asked
    state: State
    created: float
    """Unix seconds, as the others."""
    started: float | None = None
    """For the first time."""
    ended: float | None = None
    attempts: int = 0
    """How often it was started: once, and once more after each interruption."""
    exit_code: int | None = None
    """Of the command, where it ended: 0, or 1 where a check failed (nothing was proved, a goal was missed)."""
    reason: str = ""
    """Why it failed, was interrupted or is corrupt."""
    result: Any = None
    """JSON, of one that is completed."""
