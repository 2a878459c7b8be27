"""Candidate: units of one kind, and how hard and when they are corrected. What a search chooses among."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from steering.correction import EVERYWHERE, AnyCorrection, by_kind
from steering.gate import Gate
from steering.plan import Detector, Plan

When = Literal["drift", "latch", "answer", "everywhere"]
"""`drift`: where the gate fires; `latch`: from there on; `answer`: at every sampled position; `everywhere`: in the
prompt too."""

GATES: Mapping[When, Gate] = {
    "drift": Gate("drift"),
    "latch": Gate("drift", latch=True),
    "answer": Gate("always"),
    "everywhere": EVERYWHERE,
}
DOSES = (1.0, 0.5, -0.5)
"""Of the full edit; the sign is set by what answers it leads to, as everything else."""

Corrections = Callable[[Sequence[Any], Gate], tuple[AnyCorrection, ...]]
"""Units of a kind and a gate -> their full edit."""


@dataclass(frozen=True)
class Variant:
    when: When = "drift"
    threshold: float = 1.0
    """Of the drift gate, bits; behind another gate it decides nothing."""
    dose: float = 1.0

    @property
    def waits(self) -> bool:
        """For drift."""
        return GATES[self.when].kind == "drift"

    def includes(self, other: Variant) -> bool:
        """It corrects wherever the other does, no less, and the same way."""
        if self.dose * other.dose < 0 or abs(self.dose) < abs(other.dose):
            return False
        order = get_args(When)
        as_often = not self.waits or (other.waits and self.threshold <= other.threshold)
        return as_often and order.index(self.when) >= order.index(other.when)

    def __str__(self) -> str:
        gate = f"{self.when} {self.threshold:.3f}" if self.waits else self.when
        return gate if self.dose == 1.0 else f"{gate} x {self.dose:g}"


@dataclass(frozen=True)
class Candidate:
    units: tuple[Any, ...]
    """Groups or neurons, whatever `Corrections` take."""
    variant: Variant

    def __str__(self) -> str:
        return f"{told(self.units)}, {self.variant}"

    def includes(self, other: Candidate) -> bool:
        """It does all that the other does, and maybe more: what harms there is taken to harm here."""
        return set(self.units) >= set(other.units) and self.variant.includes(other.variant)

    @property
    def price(self) -> tuple[object, ...]:
        """What of two that do nearly the same is to be had first: the one that waits for drift, that fires less (where
        its gate stays shut nothing changes at all), that touches less, that has the lower dose."""
        v = self.variant
        return not v.waits, -v.threshold, len(self.units), get_args(When).index(v.when), abs(v.dose)


def variants(thresholds: Iterable[float]) -> list[Variant]:
    """Every gate with every dose; negative doses at the first threshold only. Without thresholds no gate waits."""
    levels = list(thresholds)
    waiting: tuple[When, ...] = ("drift", "latch")
    always: tuple[When, ...] = ("answer", "everywhere")
    return [
        *(Variant(when, t, dose) for dose in DOSES for t in levels[: 1 if dose < 0 else None] for when in waiting),
        *(Variant(when, dose=dose) for dose in DOSES for when in always),
    ]


def plan_of(candidate: Candidate, corrections: Corrections, detector: Detector | None) -> Plan:
    variant = candidate.variant
    made = [replace(c, strength=variant.dose) for c in corrections(candidate.units, GATES[variant.when])]
    return Plan(
        "on",
        **by_kind(made),
        detector=detector and replace(detector, threshold=variant.threshold if variant.waits else detector.threshold),
    )


def told(units: Sequence[object], most: int = 12) -> str:
    """For people: all of a few, else how many there are."""
    return " ".join(map(str, sorted(units))) if len(units) <= most else f"{len(units)} units"  # type: ignore[type-var]
