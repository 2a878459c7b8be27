"""The law of split conformal prediction: coverage over draws, at ties and at the smallest n."""

from __future__ import annotations

import numpy as np
import pytest

from steering.calibration.threshold import conformal_threshold, false_fire_spread


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.05), (40, 0.1), (400, 0.05)])
def test_fresh_answers_fire_as_often_as_stated(n: int, alpha: float) -> None:
    """P(fire) <= alpha, and by less than 1 / (n+1) where scores never tie."""
    rng, draws = np.random.default_rng(0), 4000
    fired = sum(rng.exponential() > conformal_threshold(rng.exponential(size=n).tolist(), alpha) for _ in range(draws))
    noise = 3 * (alpha * (1 - alpha) / draws) ** 0.5
    assert alpha - 1 / (n + 1) - noise <= fired / draws <= alpha + noise


def test_ties_only_lower_the_rate() -> None:
    rng, draws = np.random.default_rng(1), 2000
    fired = sum(
        rng.integers(5) > conformal_threshold(rng.integers(5, size=60).astype(float).tolist(), 0.1)
        for _ in range(draws)
    )
    assert fired / draws <= 0.1


def test_is_the_stated_order_statistic() -> None:
    scores = [float(i) for i in range(1, 401)]
    assert conformal_threshold(scores[::-1], 0.05) == 381.0  # ceil(401 * .95) = 381
    assert conformal_threshold(scores[:19], 0.05) == 19.0  # 20 * .95 is 19 exactly, not 19.000...01
    assert conformal_threshold(scores[:99], 0.1) == 90.0


def test_too_few_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        conformal_threshold([0.1] * 18, 0.05)
    assert false_fire_spread(18, 0.05) == (0.0, 1.0), "nothing is promised"
    for alpha in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            conformal_threshold([0.1] * 400, alpha)


def test_spread_is_that_of_many_calibrations() -> None:
    rng = np.random.default_rng(2)
    rates = [1 - conformal_threshold(rng.random(100).tolist(), 0.05) for _ in range(4000)]
    low, high = false_fire_spread(100, 0.05)
    assert low == pytest.approx(np.quantile(rates, 0.05), abs=0.005)
    assert high == pytest.approx(np.quantile(rates, 0.95), abs=0.005)
