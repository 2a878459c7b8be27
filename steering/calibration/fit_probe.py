"""Fit probes: logistic regression with an L1 or L2 penalty, on standardised features.

Minimises mean log loss + l1 |w|_1 + l2 |w|^2 / 2 (the bias is free) by FISTA with restarts (Beck & Teboulle 2009;
O'Donoghue & Candes 2015), on a growing set of features as in glmnet: those that violate the optimality conditions join.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from steering.evaluation.stats import Floats, Interval, auroc_interval, mean_interval

Penalty = Literal["l1", "l2"]

STRENGTHS: dict[Penalty, tuple[float, ...]] = {"l1": (0.5, 0.2, 0.1, 0.05, 0.02), "l2": (1.0, 0.1, 0.01)}
"""Penalties tried. l1 is in units of the smallest one at which every weight is 0."""
TOLERANCE = 1e-5
"""By how much the optimality conditions may be missed; gradients by standardised features are at most about 1."""
MOST_STEPS = 5000
CHECK_EVERY = 10
FIRST_SET = 64


@dataclass(frozen=True, eq=False)
class Probe:
    """log-odds of the first class = weights . (x - center) / scale + bias"""

    weights: Tensor
    """[P] by one standard deviation of a feature"""
    bias: float
    center: Tensor
    """[P] mean of the features trained on"""
    scale: Tensor
    """[P] their standard deviation, 1 where a feature is constant"""
    gap: float
    """By how much the optimality conditions are missed at most."""

    def score(self, x: Tensor) -> Floats:
        """[n, P] -> [n] log-odds"""
        odds: Floats = (((x.double() - self.center) / self.scale) @ self.weights + self.bias).cpu().numpy()
        return odds


@dataclass(frozen=True)
class Quality:
    """What a probe is worth on examples it has not seen, with intervals over questions."""

    auroc: Interval
    accuracy: Interval


def fit_probe(
    train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], penalty: Penalty = "l1"
) -> tuple[Probe, float]:
    """(features [n, P], labels [n] of 0 and 1) of both parts -> (the probe of the penalty, among `STRENGTHS`, under
    which validation loses least; that log loss in nats). Both classes must be in `train`."""
    x, y = train[0].double(), train[1].double().to(train[0].device)
    center = x.mean(0)
    spread = x.std(0, correction=0)
    scale = torch.where(spread > 1e-12, spread, 1.0)
    x = (x - center) / scale
    unit = float((x.T @ (y - y.mean())).abs().max()) / len(x) if penalty == "l1" else 1.0
    weights, bias = torch.zeros_like(center), float(torch.logit(y.mean()))
    tried: list[tuple[Probe, float]] = []
    for strength in STRENGTHS[penalty]:
        l1, l2 = (strength * unit, 0.0) if penalty == "l1" else (0.0, strength)
        weights, bias, gap = fit_logistic(x, y, l1, l2, start=(weights, bias))
        probe = Probe(weights, bias, center, scale, gap)
        tried.append((probe, log_loss(probe, *validation)))
    return min(tried, key=lambda one: one[1])


def log_loss(probe: Probe, x: Tensor, labels: Tensor) -> float:
    """Mean, in nats."""
    odds = torch.from_numpy(probe.score(x))
    return torch.nn.functional.binary_cross_entropy_with_logits(odds, labels.double().cpu()).item()


def quality(probe: Probe, x: Tensor, labels: Tensor, clusters: Sequence[str]) -> Quality:
    """x: [n, P]; clusters: the question of each example."""
    odds, positive = probe.score(x), labels.bool().cpu().numpy()
    right = ((odds > 0) == positive).astype(float)
    names = [[c for c, of_class in zip(clusters, positive, strict=True) if of_class == side] for side in (True, False)]
    return Quality(auroc_interval(odds[positive], odds[~positive], *names), mean_interval(right, clusters))


def fit_logistic(
    x: Tensor, y: Tensor, l1: float, l2: float = 0.0, *, start: tuple[Tensor, float] | None = None
) -> tuple[Tensor, float, float]:
    """(weights [P], bias, gap). x: [n, P]; y: [n] of 0 and 1. Every feature is looked at; those with weights are few
    under l1, and only they are multiplied with in each step."""
    weights, bias = start or (torch.zeros(x.shape[1], dtype=x.dtype, device=x.device), 0.0)
    used = weights != 0 if l1 > 0 else torch.ones_like(weights, dtype=torch.bool)
    while True:
        weights = torch.where(used, weights, 0.0)
        weights[used], bias, inner = _fista(x[:, used], y, (l1, l2), (weights[used], bias))
        gradient = x.T @ (torch.sigmoid(x @ weights + bias) - y) / len(x)
        violation = torch.where(used, 0.0, gradient.abs() - l1)
        gap = max(inner, float(violation.max()))
        count = min(int((violation > TOLERANCE).sum()), max(FIRST_SET, int(used.sum())))
        if count == 0:
            return weights, bias, gap
        used[violation.topk(count).indices] = True


def _fista(
    x: Tensor, y: Tensor, penalties: tuple[float, float], start: tuple[Tensor, float]
) -> tuple[Tensor, float, float]:
    """The same, every feature in use."""
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype, device=x.device)], dim=1)  # the bias is the last weight
    penalised = torch.ones(x.shape[1], dtype=x.dtype, device=x.device)
    penalised[-1] = 0.0
    l1, l2 = (penalty * penalised for penalty in penalties)
    step = 1 / (0.25 * _largest_eigenvalue(x) / len(x) + penalties[1])
    w = torch.cat([start[0], torch.tensor([start[1]], dtype=x.dtype, device=x.device)])
    ahead, momentum, gap = w, 1.0, float("inf")
    for done in range(MOST_STEPS):
        if done % CHECK_EVERY == 0 and (gap := _gap(w, _gradient(x, y, w, l2), l1)) < TOLERANCE:
            break
        moved = ahead - step * _gradient(x, y, ahead, l2)
        new = moved.sign() * (moved.abs() - step * l1).relu()
        if float((ahead - new) @ (new - w)) > 0:
            momentum = 1.0
        grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead, w, momentum = new + (momentum - 1) / grown * (new - w), new, grown
    return w[:-1], float(w[-1]), gap


def _gradient(x: Tensor, y: Tensor, w: Tensor, l2: Tensor) -> Tensor:
    return x.T @ (torch.sigmoid(x @ w) - y) / len(x) + l2 * w


def _gap(w: Tensor, gradient: Tensor, l1: Tensor) -> float:
    """Distance from 0 to the subdifferential, by its largest entry."""
    at_zero = (gradient.abs() - l1).relu()
    elsewhere = (gradient + l1 * w.sign()).abs()
    return float(torch.where(w == 0, at_zero, elsewhere).max())


def _largest_eigenvalue(x: Tensor) -> float:
    """Of x^T x, from above: exact on the smaller side."""
    gram = x.T @ x if x.shape[1] < x.shape[0] else x @ x.T
    return float(torch.linalg.eigvalsh(gram)[-1]) * (1 + 1e-9)
