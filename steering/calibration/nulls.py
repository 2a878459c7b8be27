"""Nulls: what random units reach with the same search. A correction that random ones match was not found, but met.

p = (1 + #{null >= observed}) / (1 + N), Phipson & Smyth 2010: the observed set is one of the draws.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import torch
from torch import Tensor

ALL_BELOW, DRAWN = 200, 199
"""All sets where fewer than ALL_BELOW exist, else so many drawn ones."""
ALPHA = 0.05

_T = TypeVar("_T")


@dataclass(frozen=True)
class NullTest:
    """An observed score against those of random sets."""

    observed: float
    null: tuple[float, ...]
    planned: int
    """Random sets there were to try; fewer were tried if it became clear that the observed one does not stand out."""

    @property
    def num_reaching(self) -> int:
        """Random sets that score no less."""
        return sum(score >= self.observed for score in self.null)

    @property
    def p(self) -> float:
        return (1 + self.num_reaching) / (1 + len(self.null))

    @property
    def smallest_p(self) -> float:
        """What p could have been at best."""
        return 1 / (1 + self.planned)

    @property
    def median(self) -> float:
        ordered = sorted(self.null)
        return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def enough_others(units: Sequence[object], chosen: Sequence[object]) -> bool:
    """Whether there are so many other sets of that size that p can reach ALPHA."""
    return math.comb(len(units), len(chosen)) * ALPHA >= 1


def random_sets(units: Sequence[_T], chosen: Sequence[_T], seed: int, most: int = DRAWN) -> list[tuple[_T, ...]]:
    """Sets of as many `units` as are `chosen`, none of them that one, no two alike: all, or `most` drawn ones."""
    size, taken = len(chosen), frozenset(chosen)
    if not taken <= set(units):
        raise ValueError(f"chosen units are not among the {len(units)} to draw from: {sorted(map(str, taken))}")
    rng, count = random.Random(f"{seed}|nulls"), math.comb(len(units), size) - 1
    if count < ALL_BELOW:
        every = [one for one in combinations(units, size) if frozenset(one) != taken]
        return rng.sample(every, min(most, len(every)))
    return list(_distinct(units, size, taken, rng, most))


def random_directions(vector: Tensor, seed: int, count: int = DRAWN) -> list[Tensor]:
    """Vectors of the same norm in directions drawn evenly, zero wherever `vector` is: a shift of some heads stays one
    of these heads."""
    noise = torch.Generator().manual_seed(seed)
    support, length = (vector != 0).cpu(), vector.double().norm().cpu()
    drawn = (torch.where(support, torch.randn(vector.shape, generator=noise).double(), 0.0) for _ in range(count))
    return [(one / one.norm() * length).to(vector) for one in drawn]


def against_nulls(
    observed: float,
    scores: Callable[[Sequence[_T]], Sequence[float]],
    sets: Sequence[_T],
    *,
    at_once: int = 1,
    alpha: float = ALPHA,
) -> NullTest:
    """Scores the sets, so many at once; stops where p <= alpha is out of reach (a curtailed test: its verdict is that
    of the whole)."""
    null: list[float] = []
    for start in range(0, len(sets), at_once):
        null += scores(sets[start : start + at_once])
        found = NullTest(observed, tuple(null), len(sets))
        if (1 + found.num_reaching) / (1 + len(sets)) > alpha:
            break
    return NullTest(observed, tuple(null), len(sets))


def _distinct(
    units: Sequence[_T], size: int, taken: frozenset[_T], rng: random.Random, count: int
) -> Iterator[tuple[_T, ...]]:
    seen = {taken}
    while len(seen) <= count:
        drawn = tuple(rng.sample(units, size))
        if frozenset(drawn) not in seen:
            seen.add(frozenset(drawn))
            yield drawn
