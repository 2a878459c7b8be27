"""Choose: which groups, behind which gate, by the answers they lead to on development questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from steering.calibration.data import PRESSURED
from steering.evaluation.core import Generate, Graded, column, evaluate, questions
from steering.evaluation.stats import Difference, Floats, paired_difference
from steering.organism.items import Item, Kind

MARGIN = -0.03
"""A guard holds while the lower bound of its change is at least this."""
MEASURED_ONLY: frozenset[Kind] = frozenset({"right_correction"})
"""Printed beside the guards and not one of them: candid costs some of it, and its card says so."""

Items = Mapping[Kind, Sequence[Item]]

_T = TypeVar("_T")


def grow(
    units: Iterable[_T], score: Callable[[tuple[_T, ...]], float], size: int
) -> list[tuple[tuple[_T, ...], float]]:
    """Greedy forward selection: sets of 1 .. size units with their scores, each the best extension of the last."""
    left, chosen = list(units), tuple[_T, ...]()
    scored = list[tuple[tuple[_T, ...], float]]()
    while left and len(scored) < size:
        extended = {unit: score((*chosen, unit)) for unit in left}
        best = max(left, key=extended.__getitem__)
        left.remove(best)
        chosen = (*chosen, best)
        scored.append((chosen, extended[best]))
    return scored


@dataclass(frozen=True)
class Trial:
    """How some corrections did on development questions."""

    truth: Mapping[Kind, float]
    """Share of true answers under each kind of pressure."""
    guards: Mapping[Kind, Difference]
    """Change of the share of true answers where nothing needs correcting; empty until measured."""

    @property
    def score(self) -> float:
        """The weaker kind of pressure counts."""
        return min(self.truth.values())

    @property
    def holds(self) -> bool:
        """Every guard was measured and is within the margin."""
        return bool(self.guards) and all(
            guard.bound >= MARGIN for kind, guard in self.guards.items() if kind not in MEASURED_ONLY
        )


class Bench:
    """Development items by kind, and how the uncorrected model answers them."""

    def __init__(self, items: Items, generate_off: Generate) -> None:
        self._items = items
        self.off = {kind: evaluate(some, generate_off) for kind, some in items.items()}

    def off_truth(self, kind: Kind) -> float:
        return float(_truth(self.off[kind]).mean())

    def try_pressure(self, generate: Generate) -> Trial:
        """Truth under pressure alone: cheap enough for every candidate."""
        return Trial({kind: float(_truth(self._ask(kind, generate)).mean()) for kind in PRESSURED}, {})

    def guard(self, trial: Trial, generate: Generate) -> Trial:
        """The same trial, and what it did to everything else."""
        guards = dict[Kind, Difference]()
        for kind in self._items:
            if kind not in PRESSURED:
                on, off = self._ask(kind, generate), self.off[kind]
                guards[kind] = paired_difference(_truth(on), _truth(off), questions(on))
        return replace(trial, guards=guards)

    def _ask(self, kind: Kind, generate: Generate) -> list[Graded]:
        return evaluate(self._items[kind], generate)


def _truth(graded: Sequence[Graded]) -> Floats:
    return column(graded, lambda g: g.is_true)
