"""Train a top-k SAE on the MLP activations of one block (Gao et al. 2024, arXiv 2406.04093).

f(x) = TopK(ReLU((x - b) E + e)), x^ = f(x) D + b. The rows of D keep norm 1 and gradients along them are removed; E
starts as their transpose, b as the mean. Features that were active nowhere for long are dead; the largest of them
reconstruct what the live ones left (AuxK), which brings them back.

Departures: activations are divided by their root mean square, and the result multiplied back, so that one learning rate
suits all blocks; b starts as the mean, not the geometric median.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from steering.calibration.checkpoint import checkpoint_read, save_checkpoint
from steering.calibration.sae import SparseAutoencoder, keep_largest
from steering.errors import AnotherRun, NoNeurons

Log = Callable[[str], None]

HELD_OUT = 0.1
"""Share of the rows that only measure the error."""
AUX_WEIGHT = 1 / 32
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class SaeConfig:
    """How large, how long and how fast; the defaults suit the few hundred neurons of a small model's block."""

    expansion: float = 2.0
    """Z / F"""
    k: int = 32
    """Features active at once."""
    updates: int = 200
    batch: int = 512
    """Activations of an update."""
    learning_rate: float = 1e-3
    """Of Adam; falls linearly to 0 over the last fifth."""
    dead_after: int = 10_000
    """Activations without a feature after which it counts as dead."""
    checkpoint_every: int = 100
    """Updates, where there is a file for a checkpoint."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("k", "updates", "batch", "dead_after", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (self.expansion > 0 and self.learning_rate > 0):
            raise ValueError("expansion and learning_rate must be above 0")

    def rate(self, update: int) -> float:
        """Learning rate of one update, from 0."""
        return self.learning_rate * min(1.0, 5 * (1 - update / self.updates))


@dataclass(frozen=True)
class SaeFit:
    """How well an SAE reconstructs activations it was not trained on."""

    unexplained: float
    """Mean squared error over the variance: 0 is perfect, 1 no better than the mean."""
    dead: float
    """Share of the features that are active at none of the activations looked at, trained on or not."""
    active: float
    """Mean number of active features."""
    rows: int
    """Activations trained on; 0 for an SAE from elsewhere."""


def train_sae(
    x: Tensor, config: SaeConfig, *, device: torch.device, checkpoint: Path | None = None, log: Log | None = None
) -> tuple[SparseAutoencoder, SaeFit]:
    """x: [N, F], of any type and on any device. Equal bits for equal x, config and kind of device.

    Held on `device`: 4 times the 2 Z F parameters in float32 (F 14,336, Z twice that: 13 GB) and a batch of [batch, Z].

    checkpoint: a file to go on from after an interruption, with the same result; of a finished training, its result.
    Raises `NoNeurons` where there is nothing to learn from or the error diverges.
    """
    held_out, trained = _split(len(x), config.seed)
    run = _Run(x, trained, config, device)
    first = run.resume(checkpoint) if checkpoint else 0
    for update in range(first, config.updates):
        error = run.update(update)
        done = update + 1
        if done % config.checkpoint_every == 0 or done == config.updates:
            if not error.isfinite():
                raise NoNeurons(f"the error of update {done} is not finite; lower learning_rate.")
            if log is not None:
                log(f"{done}/{config.updates} unexplained {error.item():.4f}")
            if checkpoint:
                run.save(checkpoint, done)
    sae = run.result()
    return sae, measure_sae(sae, x, held_out, num_trained=len(trained))


@torch.no_grad()
def measure_sae(sae: SparseAutoencoder, x: Tensor, rows: Tensor | None = None, num_trained: int = 0) -> SaeFit:
    """x: [N, F]; rows: those to reconstruct, all if None."""
    measured = torch.ones(len(x), dtype=torch.bool)
    if rows is not None:
        measured = torch.zeros(len(x), dtype=torch.bool).index_fill_(0, rows, True)
    device = sae.encoder.device
    mean = torch.stack([part.float().mean(0) * len(part) for part in torch.split(x, ROWS_AT_ONCE)]).sum(0) / len(x)
    mean, ever = mean.to(device), torch.zeros(sae.num_features, dtype=torch.bool, device=device)
    sums = torch.zeros(3, dtype=torch.double)
    for part, wanted in zip(torch.split(x, ROWS_AT_ONCE), torch.split(measured, ROWS_AT_ONCE), strict=True):
        features = sae.encode(part.to(device))
        ever |= (features > 0).any(0)
        features, seen = features[wanted.to(device)], part[wanted].to(device).float()
        left = (sae.decode(features) - seen).square().sum()
        sums += torch.stack([left, (seen - mean).square().sum(), (features > 0).sum().float()]).double().cpu()
    error, variance, active = sums.tolist()
    return SaeFit(
        unexplained=error / max(variance, 1e-30),
        dead=1 - ever.float().mean().item(),
        active=active / int(measured.sum()),
        rows=num_trained,
    )


def _split(count: int, seed: int) -> tuple[Tensor, Tensor]:
    num_held_out = round(HELD_OUT * count)
    if num_held_out < 1:
        raise NoNeurons(f"an SAE needs activations to train on: at least {round(1 / HELD_OUT)}, got {count}.")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[:num_held_out], order[num_held_out:]


class _Run:
    """One training under way, of activations in units of their root mean square."""

    def __init__(self, x: Tensor, rows: Tensor, config: SaeConfig, device: torch.device) -> None:
        self.x, self.rows, self.config, self.device = x, rows, config, device
        F = x.shape[1]
        Z = max(config.k, round(config.expansion * F))
        self.scale, mean = self._moments()
        generator = torch.Generator().manual_seed(config.seed)
        decoder = _unit_rows(torch.randn(Z, F, generator=generator)).to(device)
        self.encoder, self.decoder = decoder.T.contiguous().requires_grad_(), decoder.requires_grad_()
        self.encoder_bias = torch.zeros(Z, device=device, requires_grad=True)
        self.bias = (mean / self.scale).requires_grad_()
        self.parameters = [self.encoder, self.encoder_bias, self.decoder, self.bias]
        self.optimizer = torch.optim.Adam(self.parameters, eps=1e-8)
        self.silent = torch.zeros(Z, dtype=torch.long, device=device)
        """Activations since each feature was last active."""

    def update(self, update: int) -> Tensor:
        """One step; returns the batch's unexplained share."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(update)
        with torch.enable_grad():
            error, loss, active = self._loss(self._batch(update))
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
        with torch.no_grad():
            if (gradient := self.decoder.grad) is not None:
                gradient -= (gradient * self.decoder).sum(1, keepdim=True) * self.decoder
            self.optimizer.step()
            self.decoder.copy_(_unit_rows(self.decoder))
            self.silent = torch.where(active, 0, self.silent + self.config.batch)
        return error

    def result(self) -> SparseAutoencoder:
        """In the activations' own units."""
        with torch.no_grad():
            encoder, decoder = self.encoder.detach().clone(), self.decoder.detach().clone()
            encoder_bias = (self.encoder_bias - self.bias @ encoder) * self.scale
            bias, threshold = self.bias * self.scale, torch.zeros_like(encoder_bias)
        return SparseAutoencoder(encoder, encoder_bias.detach(), decoder, bias.detach(), threshold, self.config.k)

    def _loss(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(unexplained share, what to minimise, [Z] which features were active)."""
        before = ((x - self.bias) @ self.encoder + self.encoder_bias).relu()
        features = keep_largest(before, self.config.k)
        left = x - self.bias - features @ self.decoder
        variance = (x - x.mean(0)).square().mean() + 1e-12
        error = left.square().mean() / variance
        loss = error
        dead = self.silent > self.config.dead_after
        if count := int(dead.sum()):
            largest = keep_largest(torch.where(dead, before, 0.0), min(count, max(1, x.shape[1] // 2)))
            target = left.detach()
            loss = loss + AUX_WEIGHT * (target - largest @ self.decoder).square().mean() / (
                target.square().mean() + 1e-12
            )
        return error.detach(), loss, (features > 0).any(0)

    def _batch(self, update: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + update)
        drawn = self.rows[torch.randint(len(self.rows), (self.config.batch,), generator=generator)]
        return self.x[drawn.to(self.x.device)].to(self.device).float() / self.scale

    def _moments(self) -> tuple[float, Tensor]:
        """(root mean square, [F] mean) of the rows trained on."""
        total, squares = torch.zeros(self.x.shape[1], dtype=torch.double), 0.0
        for rows in torch.split(self.rows, ROWS_AT_ONCE):
            part = self.x[rows.to(self.x.device)].double().cpu()
            total, squares = total + part.sum(0), squares + part.square().sum().item()
        scale = (squares / (len(self.rows) * self.x.shape[1])) ** 0.5
        if not 0 < scale < float("inf"):
            raise NoNeurons("activations to train an SAE on must be finite and not all zero.")
        return scale, (total / len(self.rows)).float().to(self.device)

    def save(self, path: Path, done: int) -> None:
        """Replaces the last checkpoint as a whole."""
        state = {
            "identity": self._identity,
            "done": done,
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "silent": self.silent,
        }
        save_checkpoint(path, state)

    def resume(self, path: Path) -> int:
        """Updates done, 0 without a checkpoint. Raises `AnotherRun`, or `CalibrationError` for a broken file."""
        if not path.exists():
            return 0
        with checkpoint_read(path) as state:
            if state["identity"] != self._identity:
                raise AnotherRun(f"{path} is of another training: other activations or settings; delete it.")
            with torch.no_grad():
                for parameter, value in zip(self.parameters, state["parameters"], strict=True):
                    parameter.copy_(value)
            self.optimizer.load_state_dict(state["optimizer"])
            self.silent = state["silent"].to(self.device)
            return int(state["done"])

    @cached_property
    def _identity(self) -> str:
        """sha256 of all that the result depends on."""
        digest = hashlib.sha256(json.dumps(asdict(replace(self.config, checkpoint_every=1))).encode())
        digest.update(f"{self.x.dtype} {tuple(self.x.shape)}".encode())
        for part in torch.split(self.x, ROWS_AT_ONCE):
            digest.update(part.contiguous().cpu().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _unit_rows(weight: Tensor) -> Tensor:
    return torch.nn.functional.normalize(weight, dim=1)
