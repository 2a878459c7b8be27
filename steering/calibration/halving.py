"""Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943): all candidates on a few questions, the best third
of them on three times as many, and so on, so that what is far from the best costs little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

KEPT = 3
"""One in so many goes on."""

_T = TypeVar("_T")


def rungs(most: int, num_candidates: int, least: int) -> list[int]:
    """How many questions are asked at each rung: `most` at the last, a third of the next at each before it, none below
    `least`, and no more rungs than it takes to be left with KEPT candidates."""
    sizes = [most]
    while sizes[0] // KEPT >= least and num_candidates > KEPT ** len(sizes):
        sizes.insert(0, sizes[0] // KEPT)
    return sizes


def halve(
    candidates: Sequence[_T],
    score: Callable[[_T, int], float],
    sizes: Sequence[int],
    *,
    at_least: int = KEPT,
    hopeless: Callable[[_T, int], bool] = lambda one, size: False,
) -> list[tuple[_T, float]]:
    """Those that reached the last rung, best first, with their scores there; equals stay in the order given.

    score: of a candidate, on so many questions; at_least: as many go on; hopeless: whether one need not, after so
    many. Where none goes on the last rung is the one at which that came out.
    """
    if not candidates or not sizes:
        raise ValueError("there must be candidates, and a rung")
    left = list(candidates)
    for size in sizes:
        scored = sorted(((one, score(one, size)) for one in left), key=lambda pair: -pair[1])
        left = [one for one, _ in scored if not hopeless(one, size)][: max(at_least, len(scored) // KEPT)]
        if not left:
            break
    return scored
