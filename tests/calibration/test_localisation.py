"""Localisation: its figures by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from steering.calibration.localisation import (
    Localisation,
    Question,
    Unit,
    agreement,
    rank_correlation,
    top_recall,
    top_rows,
)
from steering.evaluation.stats import Floats


def localisation(patched: Floats, pressured: list[float], neutral: list[float]) -> Localisation:
    n = len(pressured)
    return Localisation(
        Question(), True, patched, np.array(pressured), np.array(neutral), tuple(map(str, range(n))), n + 1
    )


PATCHED = np.array([[[4.0, 1.0], [2.0, 0.5]], [[-4.0, -2.0], [np.nan, np.nan]]])
FOUND = localisation(PATCHED, [4.0, 1.0], [-4.0, -2.0])


def test_importance_is_a_ratio_of_means() -> None:
    np.testing.assert_allclose(FOUND.importance, [[0, -1.25 / 5.5], [-1, np.nan]])


def test_per_example_is_the_mean_relative_change() -> None:
    np.testing.assert_allclose(FOUND.per_example, [[0, -0.5], [(-2 - 3) / 2, np.nan]])
    near_boundary = localisation(PATCHED[:1], [4.0, 1e-6], [-4.0, -2.0])
    assert abs(near_boundary.per_example).max() > 1e5 > abs(near_boundary.importance).max()


def test_units_by_strength_and_layers_by_sum() -> None:
    assert FOUND.units == [Unit(1, 0), Unit(0, 1), Unit(0, 0)]
    np.testing.assert_allclose(FOUND.layer_sums, [-1.25 / 5.5, -1])
    assert str(FOUND.units[0]) == "1.0"


def test_kurtosis() -> None:
    one = np.zeros((4, 25, 1))
    one[2, 7] = -1
    assert localisation(one, [0.0], [-1.0]).kurtosis == pytest.approx(100, rel=0.03)
    normal = np.random.default_rng(0).normal(size=(100, 100, 1))
    assert localisation(normal, [0.0], [-1.0]).kurtosis == pytest.approx(3, abs=0.2)


def test_split_half_tells_signal_from_noise() -> None:
    rng = np.random.default_rng(0)
    noise, signal = rng.normal(size=(10, 10, 40)), rng.normal(size=(10, 10, 1))
    pressured, neutral = [0.0] * 40, [-1.0] * 40
    assert abs(localisation(noise, pressured, neutral).split_half) < 0.15
    assert localisation(noise + signal, pressured, neutral).split_half > 0.9
    assert np.isnan(localisation(noise[..., :1], [0.0], [-1.0]).split_half)


def test_halves_hold_whole_clusters() -> None:
    """Two questions of 20 pairs, whose noise is the question's: halves agree in nothing."""
    noise = np.random.default_rng(0).normal(size=(10, 10, 2)).repeat(20, axis=-1)
    by_question = Localisation(
        Question(), True, noise, np.zeros(40), -np.ones(40), tuple("ab"[i // 20] for i in range(40)), 40
    )
    assert abs(by_question.split_half) < 0.3
    assert localisation(noise, [0.0] * 40, [-1.0] * 40).split_half > 0.9


def test_interval_holds_the_estimate() -> None:
    rng = np.random.default_rng(0)
    patched = rng.normal(-0.5, 0.1, size=(1, 1, 50))
    found = localisation(patched, [0.0] * 50, [-1.0] * 50).interval(Unit(0, 0))
    assert found.low < found.estimate < found.high and found.estimate == pytest.approx(-0.5, abs=0.05)
    assert found.high - found.low == pytest.approx(4 * 0.1 / 50**0.5, rel=0.2)


def test_rank_correlation() -> None:
    assert rank_correlation(np.array([1.0, 2, 3, 9]), np.array([0.0, 5, 6, 7])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3, 9]), np.array([7.0, 6, 5, 0])) == pytest.approx(-1)
    assert rank_correlation(np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 4, 3, 5])) == pytest.approx(0.8)
    # ties share a rank: 1 - 1.5 / (2 * 5 * ...) by hand is sqrt(0.9)
    assert rank_correlation(np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 2, 4])) == pytest.approx(0.9**0.5)
    assert np.isnan(rank_correlation(np.ones(3), np.array([1.0, 2, 3])))


def test_recall_and_agreement_of_two() -> None:
    values = np.linspace(1, 2, 12).reshape(3, 4, 1)
    exact, opposite = localisation(values, [0.0], [-1.0]), localisation(3 - values, [0.0], [-1.0])
    assert top_recall(exact, exact) == 1.0 and agreement(exact, exact) == pytest.approx(1)
    assert top_recall(opposite, exact, 4) == 0.0 and agreement(opposite, exact) == pytest.approx(-1)
    assert top_recall(opposite, exact, 8) == 0.5
    part = values.copy()
    part[0] = np.nan
    assert agreement(localisation(part, [0.0], [-1.0]), exact) == pytest.approx(1)
    assert top_recall(exact, localisation(part, [0.0], [-1.0]), 10) == 1.0


def test_rows_of_the_strongest() -> None:
    rows = top_rows(FOUND, localisation(PATCHED / 2, [4.0, 1.0], [-4.0, -2.0]), 2)
    assert [row[0] for row in rows] == ["1.0", "0.1"]
    assert rows[0][1].startswith("-1.000 [") and rows[0][2:] == ("-2.500", "-0.727")


def test_json_holds_no_nan() -> None:
    document = FOUND.as_json()
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text) == document
    assert document["importance"][1] == [-1.0, None] and (document["num_pairs"], document["num_caving"]) == (3, 2)
