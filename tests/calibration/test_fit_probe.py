"""Fit probes: the optimum of an independent solver, sparsity where it belongs, and what a probe is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from steering.calibration.fit_probe import (
    STRENGTHS,
    TOLERANCE,
    Probe,
    fit_logistic,
    fit_probe,
    log_loss,
    quality,
)


def drawn(n: int, P: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Standard normal features, correlated; the first three decide."""
    noise = torch.Generator().manual_seed(seed)
    x = torch.randn(n, P, generator=noise, dtype=torch.double)
    x = x + 0.8 * x[:, [0]] * (torch.arange(P) % 2)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    odds = 2 * x[:, 0] - 1.5 * x[:, 1] + x[:, 2] + 0.5
    return x, (torch.rand(n, generator=noise, dtype=torch.double) < torch.sigmoid(odds)).double()


def by_coordinates(x: Tensor, y: Tensor, l1: float, l2: float) -> tuple[np.ndarray, float]:
    """Oracle: one coordinate after another, each to the zero of its own subgradient by bisection."""
    X, Y = x.numpy(), y.numpy()
    w, b = np.zeros(X.shape[1]), 0.0
    odds = np.zeros(len(Y))

    def bisected(column: np.ndarray, value: float, l1: float, l2: float) -> float:
        rest = odds - column * value

        def slope(v: float) -> float:
            return float(column @ (1 / (1 + np.exp(-(rest + column * v))) - Y)) / len(Y) + l2 * v

        if abs(slope(0.0)) <= l1:
            return 0.0
        sign = -math.copysign(1.0, slope(0.0))
        low, high = 0.0, sign
        while sign * (slope(high) + sign * l1) < 0:
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if sign * (slope(middle) + sign * l1) < 0 else (low, middle)
        return (low + high) / 2

    for _ in range(200):
        before = np.append(w, b)
        for j in range(X.shape[1]):
            new = bisected(X[:, j], w[j], l1, l2)
            odds += X[:, j] * (new - w[j])
            w[j] = new
        new = bisected(np.ones(len(Y)), b, 0.0, 0.0)
        odds += new - b
        b = new
        if np.abs(np.append(w, b) - before).max() < 1e-10:
            break
    return w, b


@pytest.mark.parametrize(("l1", "l2"), [(0.02, 0.0), (0.08, 0.0), (0.0, 0.05), (0.03, 0.02)])
def test_the_optimum_of_an_independent_solver(l1: float, l2: float) -> None:
    x, y = drawn(80, 12)
    weights, bias, gap = fit_logistic(x, y, l1, l2)
    expected, expected_bias = by_coordinates(x, y, l1, l2)
    np.testing.assert_allclose(weights.numpy(), expected, atol=2e-3)
    assert bias == pytest.approx(expected_bias, abs=2e-3) and gap < TOLERANCE
    assert ((weights.numpy() == 0) == (expected == 0)).all()
    assert bool((weights == 0).any()) == (l1 > 0)


@pytest.mark.parametrize("P", [30, 500])
def test_optimality_with_more_features_than_the_first_set_and_than_examples(P: int) -> None:
    """KKT: the gradient is -l1 sign(w) where w is not 0, and at most l1 in size where it is."""
    x, y = drawn(200, P)
    weights, bias, gap = fit_logistic(x, y, 0.01)
    gradient = x.T @ (torch.sigmoid(x @ weights + bias) - y) / len(x)
    used = weights != 0
    assert 3 <= int(used.sum()) < P
    torch.testing.assert_close(gradient[used], -0.01 * weights[used].sign(), atol=2 * TOLERANCE, rtol=0)
    assert gradient[~used].abs().max() <= 0.01 + 2 * TOLERANCE
    assert abs(float((torch.sigmoid(x @ weights + bias) - y).mean())) < 2 * TOLERANCE
    assert gap < TOLERANCE


def test_above_the_largest_gradient_there_is_only_a_bias() -> None:
    x, y = drawn(100, 20)
    largest = float((x.T @ (y - y.mean())).abs().max()) / len(x)
    weights, bias, _ = fit_logistic(x, y, 1.001 * largest)
    assert not weights.any() and bias == pytest.approx(float(torch.logit(y.mean())), abs=1e-3)
    assert fit_logistic(x, y, 0.99 * largest)[0].any()


def test_a_start_elsewhere_changes_nothing() -> None:
    x, y = drawn(120, 40)
    weights, bias, _ = fit_logistic(x, y, 0.02)
    again, again_bias, _ = fit_logistic(x, y, 0.02, start=(torch.full_like(weights, 0.5), -2.0))
    torch.testing.assert_close(again, weights, atol=2e-3, rtol=0)
    assert again_bias == pytest.approx(bias, abs=2e-3)


def test_the_penalty_is_the_one_that_validation_likes_best() -> None:
    """Of 60 features 57 are noise: neither the weakest penalty nor the strongest."""
    x, y = drawn(400, 60)
    train, validation, test = ((x[rows] * 5 + 3, y[rows]) for rows in (slice(0, 80), slice(80, 240), slice(240, 400)))
    probe, loss = fit_probe(train, validation)
    assert loss == pytest.approx(log_loss(probe, *validation))
    assert 3 <= (probe.weights != 0).sum() < 40
    standard = (train[0] - probe.center) / probe.scale
    unit = float((standard.T @ (train[1] - train[1].mean())).abs().max()) / 80
    losses = []
    for strength in STRENGTHS["l1"]:
        weights, bias, gap = fit_logistic(standard, train[1], strength * unit)
        losses.append(log_loss(Probe(weights, bias, probe.center, probe.scale, gap), *validation))
    assert loss == pytest.approx(min(losses), abs=1e-3) and loss < min(losses[0], losses[-1]) - 0.005
    assert log_loss(probe, *test) < 0.67, "a guess loses 0.69"
    dense, _ = fit_probe(train, validation, "l2")
    assert (dense.weights != 0).all()


def test_scores_are_log_odds_in_the_features_own_units() -> None:
    x, y = drawn(300, 5)
    scaled = x * torch.tensor([1.0, 100.0, 0.01, 1.0, 1.0]) + 7
    one, other = (fit_probe((some[:200], y[:200]), (some[200:], y[200:]))[0] for some in (x, scaled))
    np.testing.assert_allclose(one.score(x), other.score(scaled), atol=2e-2)
    by_hand = ((scaled - other.center) / other.scale) @ other.weights + other.bias
    np.testing.assert_allclose(other.score(scaled), by_hand.numpy())


def test_constant_features_are_left_alone() -> None:
    x, y = drawn(100, 4)
    x[:, 3] = 2.0
    probe, _ = fit_probe((x[:60], y[:60]), (x[60:], y[60:]))
    assert probe.weights[3] == 0 and np.isfinite(probe.score(x)).all()


def test_quality_of_a_probe_that_knows_and_of_one_that_does_not() -> None:
    x, y = drawn(600, 4)
    questions = [str(i // 2) for i in range(300)]
    probe, _ = fit_probe((x[:200], y[:200]), (x[200:300], y[200:300]))
    known = quality(probe, x[300:], y[300:], questions)
    shuffled = y[300:][torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    guessed = quality(probe, x[300:], shuffled, questions)
    assert known.auroc.low > 0.8 and known.accuracy.low > 0.7
    assert guessed.auroc.low < 0.5 < guessed.auroc.high
    right = ((probe.score(x[300:]) > 0) == (y[300:].numpy() == 1)).mean()
    assert known.accuracy.estimate == pytest.approx(right)


def test_separable_sides_end() -> None:
    """The optimum under l1 is finite; the solver must reach it within its steps."""
    x, _ = drawn(60, 10)
    y = (x[:, 0] > 0).double()
    _, _, gap = fit_logistic(x, y, 0.005)
    assert gap < TOLERANCE
