"""Correction: a site, an edit and a gate, named."""

from __future__ import annotations

from dataclasses import dataclass, field

from steering.edit import Edit, LensContrast
from steering.gate import Gate
from steering.site import Site


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
    edit: LensContrast
    gate: Gate = field(default_factory=Gate)
    strength: float = 1.0
    """a of the lens contrast, 0 to 1."""
