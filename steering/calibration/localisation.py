"""Localisation: what patching each unit of attention did, and what follows from it.

S = logit(claim) - logit(truth) where the answer is decided. A: the pressured prompt; B: its neutral twin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from steering.evaluation.stats import Floats, Interval, ratio_of_effects
from steering.model.layout import Layout

Kind = Literal["head", "group"]
Effect = Literal["direct", "total"]
Positions = Literal["last", "all"]

NUM_SPLITS = 20
TOP = 10


@dataclass(frozen=True, order=True)
class Unit:
    """One query head, or one KV group, of one block: which, the question says, once for all its units. (`steering.unit`
    names what weights can be changed of, a pack's units, each with its kind; a head is none of them.)"""

    layer: int
    index: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.index}"


class Placed(Protocol):
    """A unit of a block, whatever its kind."""

    @property
    def layer(self) -> int: ...

    @property
    def index(self) -> int: ...


def by_block(units: Iterable[Placed]) -> dict[int, list[int]]:
    """Block -> indices of its units, both ascending."""
    chosen: dict[int, list[int]] = {}
    for layer, index in sorted((unit.layer, unit.index) for unit in units):
        chosen.setdefault(layer, []).append(index)
    return chosen


@dataclass(frozen=True)
class Question:
    """What is patched, and how."""

    kind: Kind = "group"
    effect: Effect = "total"
    """`direct`: attn_z of all later blocks stays as in A, MLPs and norms are recomputed; `total`: nothing stays."""
    positions: Positions = "last"
    """`all`: every position of pairs of equal length, else those of their common suffix."""

    def num_units(self, layout: Layout) -> int:
        """Units of one block."""
        return layout.num_heads if self.kind == "head" else layout.num_groups


@dataclass(frozen=True, eq=False)
class Localisation:
    """What became of S in the n pairs that cave."""

    question: Question
    exact: bool
    """Patched; otherwise estimated from gradients (`screen_units`)."""
    patched: Floats
    """[L, U, n] S with the unit patched; NaN where it was not."""
    pressured: Floats
    """[n] S in A"""
    neutral: Floats
    """[n] S in B"""
    clusters: tuple[str, ...]
    """[n] what each pair asks: pairs that ask the same are no independent draws."""
    num_pairs: int
    """Pairs looked at, caving or not."""

    @property
    def importance(self) -> Floats:
        """[L, U]: I(u) = mean(S_patched - S_A) / mean(S_A - S_B). -1 restores the neutral answer in full; negative
        units feed the flip, positive ones hold against it."""
        return _importance(self.patched, self.pressured, self.neutral)

    @property
    def per_example(self) -> Floats:
        """[L, U]: mean((S_patched - S_A) / S_A), each pair's relative change (eq. 2 of Hara et al.). Pairs near the
        decision boundary, S_A = 0, outweigh all others."""
        change: Floats = ((self.patched - self.pressured) / self.pressured).mean(-1)
        return change

    @property
    def units(self) -> list[Unit]:
        """Those that were patched, the strongest first, whichever its sign."""
        strength = np.abs(self.importance)
        order = np.argsort(-strength, axis=None, kind="stable")
        units = [Unit(int(i) // strength.shape[1], int(i) % strength.shape[1]) for i in order]
        return [unit for unit in units if np.isfinite(strength[unit.layer, unit.index])]

    def interval(self, unit: Unit) -> Interval:
        """I(u), by bootstrap over clusters."""
        back = ratio_of_effects(self.patched[unit.layer, unit.index], self.neutral, self.pressured, self.clusters)
        return Interval(-back.estimate, -back.high, -back.low)

    @property
    def kurtosis(self) -> float:
        """Of I over all units patched; 3 for a normal distribution, their number if one unit does it all."""
        values = _finite(self.importance)
        spread = values - values.mean()
        return float((spread**4).mean() / (spread**2).mean() ** 2)

    @property
    def layer_sums(self) -> Floats:
        """[L] sum of I over a block's patched units."""
        sums: Floats = np.nansum(self.importance, axis=1)
        return sums

    @property
    def split_half(self) -> float:
        """Rank correlation of I between halves of the clusters, mean over random halvings; NaN for a single cluster."""
        names, members = np.unique(np.asarray(self.clusters), return_inverse=True)
        if len(names) < 2:
            return float("nan")
        rng, found = np.random.default_rng(0), list[float]()
        for _ in range(NUM_SPLITS):
            first = np.isin(members, rng.permutation(len(names))[: len(names) // 2])
            halves = [
                _finite(_importance(self.patched[..., half], self.pressured[half], self.neutral[half]))
                for half in (first, ~first)
            ]
            found.append(rank_correlation(*halves))
        return float(np.mean(found))

    def as_json(self) -> dict[str, Any]:
        """Everything but S itself; what is not finite becomes null."""
        return {
            "kind": self.question.kind,
            "effect": self.question.effect,
            "positions": self.question.positions,
            "exact": self.exact,
            "num_pairs": self.num_pairs,
            "num_caving": len(self.pressured),
            "pressured": float(self.pressured.mean()),
            "neutral": float(self.neutral.mean()),
            "importance": _nullable(self.importance),
            "per_example": _nullable(self.per_example),
            "layer_sums": self.layer_sums.tolist(),
            "kurtosis": self.kurtosis,
            "split_half": None if np.isnan(self.split_half) else self.split_half,
        }


def top_recall(screened: Localisation, exact: Localisation, k: int = TOP) -> float:
    """Share of the k strongest units by patching that are among the k strongest by the screen."""
    return len(set(exact.units[:k]) & set(screened.units[:k])) / min(k, len(exact.units))


def agreement(one: Localisation, other: Localisation) -> float:
    """Rank correlation of I over the units that both patched: of direct against total, of a screen against patching."""
    both = np.isfinite(one.importance) & np.isfinite(other.importance)
    return rank_correlation(one.importance[both], other.importance[both])


def top_rows(total: Localisation, direct: Localisation, k: int = TOP) -> list[tuple[str, ...]]:
    """The k strongest units by total effect: unit, I with its interval, per example, direct I."""
    return [
        (
            str(unit),
            str(total.interval(unit)),
            f"{total.per_example[unit.layer, unit.index]:.3f}",
            f"{direct.importance[unit.layer, unit.index]:.3f}",
        )
        for unit in total.units[:k]
    ]


def rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's; equal values share their mean rank. NaN where one side is constant."""
    ranks = [_ranks(values) - (len(values) - 1) / 2 for values in (one, other)]
    norms = [float(np.sqrt((r**2).sum())) for r in ranks]
    return float((ranks[0] * ranks[1]).sum() / (norms[0] * norms[1])) if all(norms) else float("nan")


def _importance(patched: Floats, pressured: Floats, neutral: Floats) -> Floats:
    ratio: Floats = (patched - pressured).mean(-1) / (pressured - neutral).mean()
    return ratio


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: Floats = np.cumsum(counts) - (counts + 1) / 2
    return means[inverse]


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def _nullable(values: Floats) -> list[list[float | None]]:
    rows: Sequence[Sequence[float]] = values.tolist()
    return [[value if np.isfinite(value) else None for value in row] for row in rows]
