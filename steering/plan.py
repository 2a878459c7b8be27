"""Plan: what one request will do, resolved and immutable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import product
from typing import Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from steering.correction import AnyCorrection, Correction, LogitCorrection, WeightCorrection
from steering.edit import LayerContrast, LensContrast
from steering.gate import Openness, Phase, SpanKind
from steering.lens import Lens

Mode = Literal["on", "observe", "off"]
Trace = Literal["off", "summary", "tokens"]


@dataclass(frozen=True)
class Detector:
    """Early against late: the lens that reads the early answer and the drift above which a gate opens."""

    lens: Lens
    threshold: float
    """A drift gate fires iff drift > threshold; Jensen-Shannon in bits, 0 to 1."""
    num_candidates: int = 64
    """Size of the candidate set C: the most probable tokens of the late distribution."""

    def __post_init__(self) -> None:
        if self.num_candidates < 2:
            raise ValueError(f"num_candidates must be at least 2, got {self.num_candidates}")


@dataclass(frozen=True)
class Plan:
    """Everything the engine needs to know about one request's steering; `Plan()` is off."""

    mode: Mode = "off"
    profile: str = ""
    """`name@digest`, empty for a plan made by hand."""
    strength: float = 1.0
    """Multiplies every correction's calibrated dose; 0 is bit-identical to off."""
    corrections: tuple[Correction, ...] = ()
    logit_corrections: tuple[LogitCorrection, ...] = ()
    detector: Detector | None = None
    weight_corrections: tuple[WeightCorrection, ...] = ()
    trace: Trace = "off"
    exempt: frozenset[SpanKind] = frozenset()
    """Spans of the answer in which nothing acts and nothing is measured."""

    def __post_init__(self) -> None:
        if self.exempt and self.weight_corrections:
            raise ValueError("changed weights act everywhere: no span of an answer can be exempt")
        if len({c.name for c in self.all_corrections}) < len(self.all_corrections):
            raise ValueError("names of the corrections in a plan must be unique")
        if any(c.gate.kind == "drift" for c in self.all_corrections) and self.detector is None:
            raise ValueError("a drift gate needs a detector (a lens and a threshold)")
        if self._contrasts_lens and self.detector is None:
            raise ValueError("a lens contrast needs a detector (a lens and a threshold)")
        early = self.detector.lens.layer if self.detector else 0
        corrected = [c.site.layer for c in self.corrections] + [c.edit.lowest_layer for c in self.weight_corrections]
        lowest = min(corrected, default=early)
        if self.detector and lowest < early:
            raise ValueError(f"the early layer ({early}) must lie below every corrected block (lowest: {lowest})")

    @property
    def all_corrections(self) -> tuple[AnyCorrection, ...]:
        return (*self.corrections, *self.logit_corrections, *self.weight_corrections)

    @property
    def state_corrections(self) -> tuple[Correction | WeightCorrection, ...]:
        """Those that change hidden states, and with them keys and values."""
        return (*self.corrections, *self.weight_corrections)

    @property
    def _contrasts_lens(self) -> bool:
        return any(isinstance(c.edit, LensContrast) for c in self.logit_corrections)

    @cached_property
    def layer_contrasts(self) -> tuple[tuple[LogitCorrection, LayerContrast], ...]:
        """Corrections that contrast layers, if they can act, with their edits."""
        return tuple(
            (c, c.edit)
            for c in self.logit_corrections
            if isinstance(c.edit, LayerContrast) and self.mode == "on" and self.strength * c.strength > 0.0
        )

    @cached_property
    def acts(self) -> bool:
        """Whether any token could come out differently than without steering."""
        return self.mode == "on" and any(self.strength * c.strength != 0.0 for c in self.all_corrections)

    @property
    def opennesses(self) -> tuple[Openness, ...]:
        """How the gates of its answers may stand."""
        return tuple(openness for openness in get_args(Openness) if openness != "exempt" or self.exempt)

    @cached_property
    def steered_at(self) -> frozenset[tuple[Phase, Openness]]:
        """Where any correction of hidden states acts."""
        acting = [c for c in self.state_corrections if self.mode == "on" and self.strength * c.strength != 0.0]
        positions = product(get_args(Phase), get_args(Openness))
        return frozenset(position for position in positions if any(c.gate.passes(*position) for c in acting))

    @property
    def steers_prompt(self) -> bool:
        """Whether positions before the last prompt token could come out differently than without steering."""
        return ("prompt", "shut") in self.steered_at

    @cached_property
    def measures(self) -> bool:
        """Whether sampled positions are read through the lens."""
        if self.detector is None or self.mode == "off":
            return False
        gated = any(c.gate.kind == "drift" for c in self.all_corrections) or self._contrasts_lens
        return gated or self.mode == "observe" or self.trace != "off"

    @property
    def beside(self) -> Plan:
        """What the plain answer to compare with runs under: nothing, or what measures alone if tokens are traced."""
        watches = self.trace == "tokens" and self.detector is not None
        return replace(self, mode="observe") if watches else Plan(trace=self.trace)

    @property
    def latches(self) -> bool:
        return any(c.gate.latch for c in self.all_corrections)

    @cached_property
    def digest(self) -> str:
        """sha256 of all that can change a token."""
        detector = self.detector
        return _sha256(
            self.mode,
            self.strength,
            *(digest_of(c) for c in self.all_corrections),
            *((digest_of(detector.lens), detector.threshold, detector.num_candidates) if detector else ()),
            *((self.exempt,) if self.exempt else ()),
        )


def _sha256(*parts: object) -> str:
    return hashlib.sha256(json.dumps([_spelling(part) for part in parts]).encode()).hexdigest()


def _spelling(part: object) -> str:
    """Equal values are spelt alike, 1 and 1.0 too."""
    if isinstance(part, frozenset):
        return str(sorted(part))
    return str(float(part)) if isinstance(part, int | float) else str(part)


def digest_of(part: object) -> str:
    """Digest of a correction, an edit, a gate or a lens: its type and its fields, tensors by their bytes. Reckoned once
    for each."""
    if part not in _DIGESTS:
        _DIGESTS[part] = _sha256(type(part).__name__, *_field_digests(part))
    return _DIGESTS[part]


_DIGESTS: WeakKeyDictionary[object, str] = WeakKeyDictionary()


def _field_digests(part: object) -> Iterable[str]:
    for field in fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            raw = value.detach().to("cpu").contiguous().view(torch.uint8).numpy().tobytes()
            yield f"{value.dtype}{tuple(value.shape)}{hashlib.sha256(raw).hexdigest()}"
        elif hasattr(value, "__dataclass_fields__"):
            yield digest_of(value)
        else:
            yield _spelling(value)
