"""Unit: a part of a block whose weights tuning may change while it leaves all others alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

UnitKind = Literal["group", "neuron"]

SHOWN = 6

_PATTERN = re.compile(r"(group|neuron)\.(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,6})")


@dataclass(frozen=True, order=True)
class Unit:
    """A KV group with its query heads (`group.12.3`), or an MLP neuron (`neuron.9.17`)."""

    kind: UnitKind
    layer: int
    """0-based index of the block."""
    index: int
    """Which group or neuron of the block, from 0."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(UnitKind):
            raise ValueError(f"kind must be one of {get_args(UnitKind)}, got {self.kind!r}")
        if self.layer < 0 or self.index < 0:
            raise ValueError(f"layer and index must be >= 0, got {self.layer} and {self.index}")

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> Unit:
        """Inverse of `str(unit)`; anything else (leading zeros, signs, other names) raises ValueError."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"a unit reads like 'group.12.3' or 'neuron.9.17', got {text[:40]!r}")
        return cls(cast(UnitKind, match[1]), int(match[2]), int(match[3]))


def abridged(units: Sequence[object]) -> str:
    """For people: the first few, and how many there are if that is not all."""
    return " ".join(map(str, units[:SHOWN])) + (f" ... ({len(units)} units)" if len(units) > SHOWN else "")
