"""When: the phases a correction acts in, and whether it waits for drift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["prompt", "completion"]
"""`completion`: every position whose next-token distribution is sampled, from the last prompt token on.
`prompt`: all earlier positions."""

GateKind = Literal["always", "drift"]

Openness = Literal["shut", "latched", "open", "exempt"]
"""How the gates of one answer stand at a position. Of its drift gates all are shut; those that latch open, as one
fired; or all open. `exempt`: no gate lets anything pass, whatever its kind, and none can open."""

SpanKind = Literal["code", "tool_calls", "reasoning"]
"""Spans of an answer that a plan may exempt."""


@dataclass(frozen=True)
class Gate:
    """When a correction applies. It never knows what its tensors mean."""

    kind: GateKind = "always"
    """`drift`: only where the early and the late answer disagree by more than the plan's threshold."""
    phases: frozenset[Phase] = frozenset({"completion"})
    """Positions it may act at."""
    latch: bool = False
    """Once open it stays open for the rest of the answer."""

    def __post_init__(self) -> None:
        if not self.phases <= {"prompt", "completion"} or not self.phases:
            raise ValueError(f"phases must be a non-empty subset of prompt, completion; got {set(self.phases)}")
        if self.kind == "drift" and self.phases != {"completion"}:
            raise ValueError("a drift gate decides at sampled positions: its phases can only be {completion}")
        if self.kind == "always" and self.latch:
            raise ValueError("latch has no meaning with kind='always'")

    def passes(self, phase: Phase, openness: Openness) -> bool:
        """Whether a correction behind this gate acts at such a position."""
        is_open = self.kind == "always" or openness == "open" or (openness == "latched" and self.latch)
        return is_open and openness != "exempt" and phase in self.phases
