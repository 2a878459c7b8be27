"""Successive halving: the best survives wherever rungs agree, for a fraction of the questions."""

from __future__ import annotations

import random

import pytest

from steering.calibration.halving import halve, rungs


def test_the_best_survives_at_a_fraction_of_the_cost() -> None:
    worth = {i: random.Random(i).random() for i in range(81)}
    asked = 0

    def score(one: int, size: int) -> float:
        nonlocal asked
        asked += size
        return worth[one]

    sizes = rungs(270, 81, 10)
    assert sizes == [10, 30, 90, 270]
    ranked = halve(list(worth), score, sizes)
    assert [one for one, _ in ranked] == sorted(worth, key=lambda i: -worth[i])[:3]
    assert asked == 81 * 10 + 27 * 30 + 9 * 90 + 3 * 270 < 81 * 270 / 6


def test_what_only_seemed_good_at_first_loses_to_what_is() -> None:
    ranked = halve(
        "abcdef", lambda one, size: {"a": 1.0, "f": 0.9}.get(one, 0.0) if size < 50 else float(one == "f"), [10, 90]
    )
    assert ranked[0] == ("f", 1.0)


def test_equals_stay_in_the_order_given() -> None:
    assert [one for one, _ in halve("cab", lambda one, size: 1.0, [10, 20])] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("most", "num_candidates", "least", "sizes"),
    [(200, 3, 20, [200]), (200, 4, 20, [66, 200]), (200, 1000, 20, [22, 66, 200]), (10, 1000, 20, [10])],
)
def test_rungs(most: int, num_candidates: int, least: int, sizes: list[int]) -> None:
    assert rungs(most, num_candidates, least) == sizes


@pytest.mark.parametrize(("candidates", "sizes"), [([], [1]), (["a"], [])])
def test_nothing_to_halve(candidates: list[str], sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="there must be"):
        halve(candidates, lambda one, size: 0.0, sizes)
