"""Probe: how well a linear read-out of some features tells two classes apart, on questions it was not fitted to."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

RIDGE = 1.0
"""Penalty |w|^2 / 2 beside the summed loss, as scikit-learn's C = 1."""
NEWTON_STEPS = 15


def held_out_accuracy(x: Tensor, truthful: Tensor, clusters: Sequence[str], seed: int = 0) -> Tensor:
    """x: [H, n, K], H probes side by side; truthful: [n] bool; clusters: [n], never split. Returns [H]: accuracy over
    two folds, each scored by the probe fitted to the other, mean of the two classes."""
    names = sorted(set(clusters))
    first = set(random.Random(f"{seed}|folds").sample(names, len(names) // 2))
    fold = torch.tensor([cluster in first for cluster in clusters])
    right = torch.empty(x.shape[:2], dtype=torch.bool)
    for held in (fold, ~fold):
        scaled = _standardised(x, ~held)
        weights = fit_logistic(scaled[:, ~held], truthful[~held])
        said = (scaled[:, held] @ weights[..., None]).squeeze(-1) > 0
        right[:, held] = said == truthful[held]
    return (right[:, truthful].double().mean(-1) + right[:, ~truthful].double().mean(-1)) / 2


def fit_logistic(x: Tensor, positive: Tensor) -> Tensor:
    """x: [H, n, K]; positive: [n] bool. Returns [H, K] weights of logistic regressions with a ridge, by Newton's
    method; both classes weigh the same."""
    y = positive.to(x.dtype)
    weight = torch.where(positive, 0.5 / y.mean().clamp_min(1e-9), 0.5 / (1 - y.mean()).clamp_min(1e-9))
    ridge, w = RIDGE * torch.eye(x.shape[-1], dtype=x.dtype), x.new_zeros(x.shape[0], x.shape[-1])
    for _ in range(NEWTON_STEPS):
        p = torch.einsum("hnk,hk->hn", x, w).sigmoid()
        gradient = torch.einsum("hnk,hn->hk", x, weight * (p - y)) + RIDGE * w
        hessian = torch.einsum("hnk,hn,hnl->hkl", x, weight * p * (1 - p), x) + ridge
        w = w - torch.linalg.solve(hessian, gradient)
    return w


def _standardised(x: Tensor, fitted: Tensor) -> Tensor:
    """[H, n, K + 1]: by the mean and spread of the fitted rows, and a constant for the intercept."""
    own = x[:, fitted]
    spread = own.std(1, unbiased=False, keepdim=True).clamp_min(1e-9)
    return torch.nn.functional.pad((x - own.mean(1, keepdim=True)) / spread, (0, 1), value=1.0)
