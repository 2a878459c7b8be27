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
    contests: Sequence[Sequence[_T]],
    scores: Callable[[Sequence[_T], int], Sequence[float]],
    sizes: Sequence[int],
    *,
    at_least: int = KEPT,
    hopeless: Callable[[_T, int], bool] = lambda one, size: False,
) -> list[list[tuple[_T, float]]]:
    """Of each contest those that reached its last rung, best first, with their scores there; equals stay in the order
    given.

    scores: of some candidates, on so many questions; those of one rung, of all contests, are asked for together.
    at_least: as many go on; hopeless: whether one need not, after so many. Where none goes on the last rung of a
    contest is the one at which that came out.
    """
    if not all(contests) or not sizes:
        raise ValueError("there must be candidates, and a rung")
    left = [list(candidates) for candidates in contests]
    ranked: list[list[tuple[_T, float]]] = [[] for _ in contests]
    for size in sizes:
        told = iter(scores([one for some in left for one in some], size))
        for i, some in enumerate(left):
            if some:
                scored = sorted(((one, next(told)) for one in some), key=lambda pair: -pair[1])
                ranked[i] = scored
                kept = max(at_least, len(scored) // KEPT)
                left[i] = [one for one, _ in scored if not hopeless(one, size)][:kept]
    return ranked
