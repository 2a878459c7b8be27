"""Correction: an edit and a gate, named, and where the edit does not say it itself, a site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from steering.edit import Edit, LayerContrast, LensContrast, SparseWeights
from steering.gate import Gate
from steering.site import Site

EVERYWHERE = Gate("always", frozenset({"prompt", "completion"}))


@dataclass(frozen=True)
class Correction:
    """One named correction of hidden states; c = strength * (the request's strength) * gate * scope."""

    name: str
    site: Site
    edit: Edit
    gate: Gate = field(default_factory=Gate)
    strength: float = 1.0
    """Calibrated dose; 1 means the edit as made."""


@dataclass(frozen=True)
class LogitCorrection:
    """One named correction at the logits, which have no layer and are only ever sampled (phase completion)."""

    name: str
    edit: LensContrast | LayerContrast
    gate: Gate = field(default_factory=Gate)
    strength: float = 1.0
    """a of the contrast, 0 to 1."""


@dataclass(frozen=True)
class WeightCorrection:
    """One named change of weights; c = strength * (the request's strength) at every position of a request.

    Keys and values that only some positions wrote with the changed weights are those of no model.
    """

    name: str
    edit: SparseWeights
    gate: Gate = EVERYWHERE
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.gate != EVERYWHERE:
            raise ValueError("changed weights act always, and in prompt and completion: their gate can be no other")


AnyCorrection = Correction | LogitCorrection | WeightCorrection


def by_kind(corrections: Iterable[AnyCorrection]) -> dict[str, Any]:
    """Parted as the fields of a plan or pack have them."""
    every = tuple(corrections)
    kinds = {"corrections": Correction, "logit_corrections": LogitCorrection, "weight_corrections": WeightCorrection}
    return {name: tuple(c for c in every if isinstance(c, kind)) for name, kind in kinds.items()}
