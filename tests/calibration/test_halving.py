"""Successive halving: the best survives wherever rungs agree, for a fraction of the questions."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from steering.calibration.halving import halve, rungs


def test_the_best_survives_at_a_fraction_of_the_cost() -> None:
    worth = {i: random.Random(i).random() for i in range(81)}
    asked = 0

    def scores(some: Sequence[int], size: int) -> list[float]:
        nonlocal asked
        asked += size * len(some)
        return [worth[one] for one in some]

    sizes = rungs(270, 81, 10)
    assert sizes == [10, 30, 90, 270]
    ranked = halve([list(worth)], scores, sizes)[0]
    assert [one for one, _ in ranked] == sorted(worth, key=lambda i: -worth[i])[:3]
    assert asked == 81 * 10 + 27 * 30 + 9 * 90 + 3 * 270 < 81 * 270 / 6


def test_what_only_seemed_good_at_first_loses_to_what_is() -> None:
    def scores(some: Sequence[str], size: int) -> list[float]:
        return [{"a": 1.0, "f": 0.9}.get(one, 0.0) if size < 50 else float(one == "f") for one in some]

    assert halve(["abcdef"], scores, [10, 90])[0][0] == ("f", 1.0)


def test_equals_stay_in_the_order_given() -> None:
    ranked = halve(["cab"], lambda some, size: [1.0] * len(some), [10, 20])[0]
    assert [one for one, _ in ranked] == ["c", "a", "b"]


def test_contests_go_on_side_by_side_and_come_out_as_alone() -> None:
    worth = {i: random.Random(i).random() for i in range(60)}
    contests = [range(27), range(27, 30), range(30, 60)]
    rungs_asked: list[int] = []

    def scores(some: Sequence[int], size: int) -> list[float]:
        rungs_asked.append(len(some))
        return [worth[one] - 1 / size for one in some]

    def hopeless(one: int, size: int) -> bool:
        return one in range(27, 30)

    together = halve(contests, scores, [10, 30], hopeless=hopeless)
    assert rungs_asked == [60, 9 + 10]
    assert together == [halve([contest], scores, [10, 30], hopeless=hopeless)[0] for contest in contests]
    assert len(together[1]) == 3, "its last rung was the first"


@pytest.mark.parametrize(
    ("most", "num_candidates", "least", "sizes"),
    [(200, 3, 20, [200]), (200, 4, 20, [66, 200]), (200, 1000, 20, [22, 66, 200]), (10, 1000, 20, [10])],
)
def test_rungs(most: int, num_candidates: int, least: int, sizes: list[int]) -> None:
    assert rungs(most, num_candidates, least) == sizes


@pytest.mark.parametrize(("candidates", "sizes"), [([], [1]), (["a"], [])])
def test_nothing_to_halve(candidates: list[str], sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="there must be"):
        halve([candidates], lambda some, size: [0.0] * len(some), sizes)
