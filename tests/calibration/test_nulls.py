"""Nulls: distinct random sets, p-values that hold their level, and stopping that changes no verdict."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import comb

import pytest
import torch

from steering.calibration.nulls import ALPHA, NullTest, against_nulls, random_directions, random_sets


def test_all_sets_where_there_are_few() -> None:
    sets = random_sets(range(8), (1, 4, 6), seed=0)
    assert len({frozenset(one) for one in sets}) == len(sets) == comb(8, 3) - 1
    assert all(set(one) != {1, 4, 6} for one in sets)
    assert len(random_sets(range(8), (1, 4, 6), seed=0, most=20)) == 20


def test_drawn_sets_where_there_are_many() -> None:
    sets = random_sets(range(32), (3, 5, 7, 11), seed=0)
    assert len({frozenset(one) for one in sets}) == len(sets) == 199
    assert {len(set(one)) for one in sets} == {4} and frozenset({3, 5, 7, 11}) not in map(frozenset, sets)
    assert sets == random_sets(range(32), (3, 5, 7, 11), seed=0) != random_sets(range(32), (3, 5, 7, 11), seed=1)


def test_units_are_drawn_evenly() -> None:
    drawn = [unit for seed in range(20) for one in random_sets(range(32), (0, 1, 2, 3), seed) for unit in one]
    counts = [drawn.count(unit) for unit in range(32)]
    assert min(counts) > 0.8 * len(drawn) / 32 and max(counts) < 1.2 * len(drawn) / 32


def test_units_from_elsewhere_are_refused() -> None:
    with pytest.raises(ValueError, match="not among the 4"):
        random_sets(range(4), (2, 9), seed=0)


def test_random_directions_have_the_norm_and_the_support_of_what_was_found() -> None:
    found = torch.cat((torch.zeros(10), torch.arange(1.0, 7.0), torch.zeros(4)))
    drawn = random_directions(found, seed=0)
    assert len(drawn) == 199 and {one.dtype for one in drawn} == {torch.float32}
    for one in drawn:
        assert one.norm().item() == pytest.approx(found.norm().item(), rel=1e-5)
        assert torch.equal(one != 0, found != 0)
    again, other = random_directions(found, seed=0), random_directions(found, seed=1, count=3)
    assert all(map(torch.equal, drawn, again)) and not torch.equal(drawn[0], other[0])
    assert random_directions(found.bfloat16(), seed=0, count=1)[0].dtype == torch.bfloat16


def test_random_directions_point_everywhere_alike() -> None:
    """In 20 dimensions the square of a unit vector's part along any other is 1/20 on average."""
    drawn = torch.stack(random_directions(torch.ones(20), seed=0, count=2000)) / 20**0.5
    assert drawn.mean(0).abs().max() < 0.02
    assert (drawn.square().mean(0) - 1 / 20).abs().max() < 0.01


def test_p_counts_the_observed_one_among_the_draws() -> None:
    test = NullTest(0.8, (0.9, 0.8, 0.1, 0.3), planned=4)
    assert (test.num_reaching, test.p, test.smallest_p, test.median) == (2, 3 / 5, 1 / 5, pytest.approx(0.55))
    assert NullTest(1.0, (0.0,) * 19, planned=19).p == ALPHA


def test_level_holds_and_stopping_changes_no_verdict() -> None:
    """Over 1,000 tests in which the observed score is one more random one."""
    rng, rejected = random.Random(0), 0
    for _ in range(1000):
        observed, *scores = (rng.random() for _ in range(100))
        whole = NullTest(observed, tuple(scores), len(scores))
        stopped = against_nulls(observed, list, scores)
        blocks = against_nulls(observed, list, scores, at_once=10)
        assert (blocks.p <= ALPHA) == (whole.p <= ALPHA) and len(blocks.null) - len(stopped.null) in range(10)
        assert (stopped.p <= ALPHA) == (whole.p <= ALPHA)
        assert len(stopped.null) == 99 or stopped.num_reaching == 5
        rejected += whole.p <= ALPHA
    assert 0.035 < rejected / 1000 < 0.065


def test_what_stands_out_is_tried_to_the_end() -> None:
    scored: list[int] = []

    def scores(some: Sequence[int]) -> list[float]:
        scored.extend(some)
        return [0.0] * len(some)

    assert against_nulls(1.0, scores, range(99), at_once=10).p == 0.01 and scored == list(range(99))
    assert len(against_nulls(-1.0, scores, range(99)).null) == 5
