"""Statistics of replies that come in clusters: several about one question are no independent draws.

Everything is a bootstrap over clusters: a draw counts each reply as often as its question was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate with its central 95 % interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Difference(Interval):
    """A mean paired difference."""

    bound: float
    """One-sided 95 % lower bound."""


Extremes = tuple[float, float]


def mean_interval(
    values: Floats, clusters: Sequence[str], *, seed: int = 0, extremes: Extremes | None = (0.0, 1.0)
) -> Interval:
    """Mean of values between these extremes; None: without bounds, and so without made-up clusters at them."""
    draws = _smoothed_means(values, clusters, extremes, seed)
    return _interval(float(values.mean()), draws)


def paired_difference(
    on: Floats, off: Floats, clusters: Sequence[str], *, seed: int = 0, extremes: Extremes | None = (0.0, 1.0)
) -> Difference:
    """Mean of on - off, values between these extremes, reply by reply about the same item."""
    if on.shape != off.shape:
        raise ValueError(f"paired values must have equal shapes, got {on.shape} and {off.shape}")
    furthest = extremes and (extremes[0] - extremes[1], extremes[1] - extremes[0])
    draws = _smoothed_means(on - off, clusters, furthest, seed)
    interval = _interval(float((on - off).mean()), draws)
    return Difference(interval.estimate, interval.low, interval.high, float(np.quantile(draws, 0.05)))


def ratio_of_effects(treated: Floats, reference: Floats, baseline: Floats, clusters: Sequence[str]) -> Interval:
    """(mean treated - mean baseline) / (mean reference - mean baseline), all three about the same items. Draws without
    an effect of the reference say nothing of it, and are left out; NaN where there is none at all."""
    effect, most = treated - baseline, reference - baseline
    members, counts = draw_clusters(clusters)
    if not most.sum():
        return Interval(math.nan, math.nan, math.nan)
    drawn, drawn_most = counts @ _totals(effect, members), counts @ _totals(most, members)
    return _interval(float(effect.mean() / most.mean()), drawn[drawn_most != 0] / drawn_most[drawn_most != 0])


def mcnemar(on: Floats, off: Floats) -> float:
    """Two-sided p, by the exact binomial, of 0/1 outcomes of the same items, one a question (McNemar 1947)."""
    gained, lost = int((on > off).sum()), int((off > on).sum())
    fewer = sum(math.comb(gained + lost, i) for i in range(min(gained, lost) + 1))
    return float(min(1.0, 2 * fewer / 2 ** (gained + lost)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the order given (Holm 1979)."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted


def auroc(positive: Floats, negative: Floats) -> float:
    """P(a random positive scores above a random negative), ties counting half."""
    return float(_wins(positive, negative).mean())


def auroc_interval(
    positive: Floats, negative: Floats, positive_clusters: Sequence[str], negative_clusters: Sequence[str]
) -> Interval:
    """Clusters are drawn jointly: a question may have replies on both sides."""
    members, counts = draw_clusters([*positive_clusters, *negative_clusters])
    sides = np.split(members, [len(positive)])
    wins = np.zeros((counts.shape[1], counts.shape[1]))
    np.add.at(wins, (sides[0][:, None], sides[1]), _wins(positive, negative))
    num_positive, num_negative = (counts @ _totals(np.ones(len(side)), side, counts.shape[1]) for side in sides)
    pairs = num_positive * num_negative
    won = ((counts @ wins) * counts).sum(1)
    return _interval(auroc(positive, negative), won[pairs > 0] / pairs[pairs > 0])


def draw_clusters(clusters: Sequence[str], *, seed: int = 0) -> tuple[Integers, Floats]:
    """[n] index of each reply's cluster; [DRAWS, k] how often each cluster is drawn when k are, with replacement."""
    names, members = np.unique(np.asarray(clusters), return_inverse=True)
    k = len(names)
    drawn = np.random.default_rng(seed).integers(k, size=(DRAWS, k)) + k * np.arange(DRAWS)[:, None]
    return members, np.bincount(drawn.ravel(), minlength=DRAWS * k).reshape(DRAWS, k).astype(np.float64)


def _smoothed_means(values: Floats, clusters: Sequence[str], extremes: Extremes | None, seed: int) -> Floats:
    """[DRAWS] means with one made-up cluster at each extreme, if there are any.

    Without them an interval has no width where all replies agree. Agresti & Coull 1998 add such outcomes to rates,
    Agresti & Min 2005 to pairs. Estimates stay free of them.
    """
    if len(values) == 0:
        raise ValueError("no replies to average")
    made_up = ("\0low", "\0high") if extremes else ()
    members, counts = draw_clusters([*clusters, *made_up], seed=seed)
    values = np.append(values, extremes or ())
    means: Floats = counts @ _totals(values, members) / (counts @ _totals(np.ones(len(values)), members))
    return means


def _totals(values: Floats, members: Integers, k: int = 0) -> Floats:
    """[n] values -> [k] their sum in each cluster."""
    return np.bincount(members, weights=values, minlength=k).astype(np.float64)


def _wins(positive: Floats, negative: Floats) -> Floats:
    """[positives, negatives]: 1 where the positive scores higher, a half at ties."""
    wins: Floats = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return wins


def _interval(estimate: float, draws: Floats) -> Interval:
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(estimate, float(low), float(high))
