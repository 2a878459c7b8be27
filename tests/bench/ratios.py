"""Ratios of pairs that ran in one round, with what a bootstrap leaves of them, and what they are to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from steering.evaluation.stats import DRAWS, Interval

ENOUGH_ROUNDS = 15
"""Below that a goal is neither met nor missed."""

Verdict = Literal["met", "not met", "too few rounds", ""]


@dataclass(frozen=True)
class Goal:
    """What the lower bound of a ratio must reach or, at most, its upper bound."""

    bound: float
    at_most: bool = False

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:.3g}"

    def verdict(self, interval: Interval, rounds: int) -> Verdict:
        if rounds < ENOUGH_ROUNDS:
            return "too few rounds"
        met = interval.high <= self.bound if self.at_most else interval.low >= self.bound
        return "met" if met else "not met"


@dataclass(frozen=True)
class Measured:
    """One line of the table."""

    section: str
    shape: str
    batch: int
    context: int
    name: str
    speed: float | None
    """Median output tokens/s; None where the ratio is not one of speeds."""
    to: str = ""
    """What it is compared with."""
    ratio: Interval | None = None
    rounds: int = 0
    goal: Goal | None = None

    @property
    def verdict(self) -> Verdict:
        return self.goal.verdict(self.ratio, self.rounds) if self.goal and self.ratio else ""


def median_interval(ratios: Sequence[float], *, seed: int = 0) -> Interval:
    """Median of the rounds' ratios with its central 95 % bootstrap interval."""
    values = np.asarray(ratios, dtype=np.float64)
    drawn = np.random.default_rng(seed).choice(values, size=(DRAWS, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return Interval(float(np.median(values)), float(low), float(high))


def speed_ratio(times: Mapping[str, Sequence[float]], name: str, to: str) -> Interval:
    """How many times as fast as `to`."""
    return median_interval([other / own for own, other in zip(times[name], times[to], strict=True)])


def costing(share: float) -> Goal:
    """At most so much more time."""
    return Goal(1 / (1 + share))
