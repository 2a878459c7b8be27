"""Threshold of a drift gate, by split conformal prediction: a stated share of harmless answers may fire by mistake.

The unit is the answer: tokens of one answer are not exchangeable, and 1 % a token would be most long answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def conformal_threshold(scores: Sequence[float], false_fires: float) -> float:
    """The ceil((n+1)(1-a))-th smallest score, a = `false_fires`.

    A fresh answer exchangeable with the n scored ones exceeds it with probability at most a, over the draw of all n+1.
    """
    rank = _rank(len(scores), false_fires)
    if rank > len(scores):
        raise ValueError(f"{len(scores)} answers are too few to promise at most {false_fires:g} false fires")
    return sorted(scores)[rank - 1]


def false_fire_spread(n: int, false_fires: float) -> tuple[float, float]:
    """5 % and 95 % quantile of the share that really fires, given one calibration: Beta(n+1-k, k), without ties.

    0 and 1 where n are too few to promise anything.
    """
    rank = _rank(n, false_fires)
    if rank > n:
        return 0.0, 1.0
    draws = np.random.default_rng(0).beta(n + 1 - rank, rank, size=100_000)
    low, high = np.quantile(draws, (0.05, 0.95))
    return float(low), float(high)


def _rank(n: int, false_fires: float) -> int:
    if not 0 < false_fires < 1:
        raise ValueError(f"the share of false fires must be between 0 and 1, got {false_fires}")
    return math.ceil((n + 1) * (1 - Fraction(str(false_fires))))
