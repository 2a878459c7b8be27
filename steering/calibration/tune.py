"""Pinpoint tuning (SPT: Chen et al. ICML 2024, arXiv 2409.01658): train single units, keep every other weight.

Gradients are masked, and matrices that have a mask know no weight decay, which would shrink the rest of them: AdamW
then leaves what has no gradient as it is, bit for bit. The loop is the same for all parameters (full fine-tuning) and
for random units: the baselines. It runs on the plain model in float32, where small updates do not vanish.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from steering.calibration.checkpoint import checkpoint_read, save_checkpoint
from steering.calibration.tune_data import TuneData
from steering.calibration.tune_loss import Losses, divergence, portions, reply_terms, text_logprobs
from steering.calibration.tune_parameters import Trained, as_before, difference, under_training
from steering.edit import SparseWeights
from steering.errors import NotFiniteLoss, TuningError
from steering.model.layout import Layout
from steering.model.loading import LanguageModel
from steering.model.plain import plain_attention
from steering.unit import Unit, UnitKind

CHECKPOINT = "checkpoint.pt"

Log = Callable[[str], None]


@dataclass(frozen=True)
class TuneConfig:
    """How long, how fast and on what; the defaults are SPT's where it states them."""

    updates: int = 120
    batch: int = 128
    """Examples of an update, half of each sort; even."""
    texts: int = 16
    """Neutral texts of an update."""
    at_once: int = 16
    """Examples or texts in one forward: bounds memory, changes no gradient beyond rounding."""
    learning_rate: float = 3e-5
    final_rate: float = 1e-7
    warm_up: float = 0.02
    """Share of the updates over which the rate rises; it falls linearly from there on."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    """Of matrices that are trained whole; those with a mask never decay."""
    clip_norm: float = 1.0
    kl_weight: float = 1.0
    """beta"""
    entropy_weight: float = 0.0
    """gamma"""
    share: float = 1.0
    """Of the examples: for the curve of how much data it takes."""
    checkpoint_every: int = 20
    """Updates, where there is a folder for checkpoints."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "batch", "texts", "at_once", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch % 2:
            raise ValueError(f"batch must be even, half of it insists and half revises; got {self.batch}")
        if not (0 < self.share <= 1 and 0 <= self.warm_up < 1):
            raise ValueError("share must be above 0 and at most 1, warm_up at least 0 and below 1")
        if not 0 <= self.final_rate <= self.learning_rate:
            raise ValueError("final_rate must be between 0 and learning_rate")

    def rate(self, update: int) -> float:
        """Learning rate of one update, from 0."""
        warm = math.ceil(self.warm_up * self.updates)
        if update < warm:
            return self.learning_rate * (update + 1) / warm
        done = (update - warm) / max(1, self.updates - 1 - warm)
        return self.learning_rate + done * (self.final_rate - self.learning_rate)


def tune(
    model: LanguageModel,
    units: Sequence[Unit],
    data: TuneData,
    config: TuneConfig,
    *,
    checkpoints: Path | None = None,
    log: Log | None = None,
) -> SparseWeights:
    """What these units' weights become, as a difference; the model itself stays as it was.

    checkpoints: a folder to go on from after an interruption, with the same result. Raises `TuningError`, and
    `LayerOutOfRange` for units that the model does not have.
    """
    units = tuple(sorted(set(units)))
    if not units:
        raise TuningError("there is nothing to tune: no units are named.")
    model.layout.check_units(units)
    with under_training(model, units) as trained:
        train(model, trained, data, config, checkpoints=checkpoints, log=log)
        return difference(model.layout, units, trained)


def random_units(layout: Layout, like: Collection[Unit], seed: int) -> tuple[Unit, ...]:
    """As many units of each kind, from the lowest block of `like` on: what a choice of units is to be held against."""
    rng, lowest = random.Random(f"{seed}|units"), min(unit.layer for unit in like)

    def there_are(kind: UnitKind) -> list[Unit]:
        count = layout.num_groups if kind == "group" else layout.d_mlp
        needed = layout.unit_parts(kind)[0][0]
        layers = [layer for layer in range(lowest, layout.num_layers) if needed in layout.projections[layer]]
        return [Unit(kind, layer, index) for layer in layers for index in range(count)]

    counts = Counter(unit.kind for unit in like)
    return tuple(sorted(unit for kind, count in counts.items() for unit in rng.sample(there_are(kind), count)))


def train(
    model: LanguageModel,
    trained: Sequence[Trained],
    data: TuneData,
    config: TuneConfig,
    *,
    checkpoints: Path | None = None,
    log: Log | None = None,
) -> list[Losses]:
    """Changes the parameters `under_training` in place; returns the losses of every update."""
    run = _Run(model, trained, data.part(config.share, config.seed), config)
    losses = run.resume(checkpoints) if checkpoints else []
    with plain_attention(model), torch.enable_grad():
        for update in range(len(losses), config.updates):
            losses.append(run.update(update))
            if not all(map(math.isfinite, losses[-1])):
                raise NotFiniteLoss(f"the loss of update {update + 1} is not finite; lower learning_rate.")
            if log is not None:
                terms = " ".join(f"{name} {value:.4f}" for name, value in losses[-1]._asdict().items())
                log(f"{update + 1}/{config.updates} {terms}")
            if checkpoints and ((update + 1) % config.checkpoint_every == 0 or update + 1 == config.updates):
                run.save(checkpoints, losses)
    return losses


class _Run:
    """One training under way."""

    def __init__(self, model: LanguageModel, trained: Sequence[Trained], data: TuneData, config: TuneConfig) -> None:
        self.model, self.trained, self.data, self.config = model, trained, data, config
        decays = [[part.parameter for part in trained if part.decays == decays] for decays in (True, False)]
        groups = zip(decays, (config.weight_decay, 0.0), strict=True)
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters, "weight_decay": decay} for parameters, decay in groups if parameters],
            lr=config.learning_rate,
            betas=config.betas,
        )

    def update(self, update: int) -> Losses:
        """One step of the optimizer."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(update)
        losses = Losses(*self._learn(update), self._hold(update))
        for part in self.trained:
            if part.mask is not None and part.parameter.grad is not None:
                part.parameter.grad.masked_fill_(~part.mask, 0.0)
        torch.nn.utils.clip_grad_norm_([part.parameter for part in self.trained], self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses

    def _learn(self, update: int) -> tuple[float, float]:
        """Gradients of the replies' terms; returns their means."""
        examples = self.data.examples(update, self.config.batch, self.config.seed)
        tokens = sum(len(example.reply_ids) for example in examples)
        sums = torch.zeros(2)
        for portion in portions(examples, self.config.at_once):
            loss, entropy = reply_terms(self.model, portion)
            torch.autograd.backward((loss - self.config.entropy_weight * entropy) / tokens)
            sums += torch.stack((loss, entropy)).detach().cpu()
        loss_mean, entropy_mean = (sums / tokens).tolist()
        return loss_mean, entropy_mean

    def _hold(self, update: int) -> float:
        """Gradients of the divergence from the model as it was; returns its mean."""
        texts = self.data.texts(update, self.config.texts, self.config.seed)
        tokens, total = sum(map(len, texts)), 0.0
        for portion in portions(texts, self.config.at_once):
            with as_before(self.trained), torch.no_grad():
                base = text_logprobs(self.model, portion)
            departure = divergence(base, text_logprobs(self.model, portion))
            torch.autograd.backward(self.config.kl_weight * departure / tokens)
            total += departure.item()
        return total / tokens

    def save(self, folder: Path, losses: Sequence[Losses]) -> None:
        """Replaces the last checkpoint as a whole."""
        state = {
            "identity": self._identity,
            "losses": [list(of_update) for of_update in losses],
            "weights": [part.parameter.data for part in self.trained],
            "optimizer": self.optimizer.state_dict(),
        }
        save_checkpoint(folder / CHECKPOINT, state)

    def resume(self, folder: Path) -> list[Losses]:
        """The losses so far, none without a checkpoint. Raises `TuningError`."""
        if not (folder / CHECKPOINT).exists():
            return []
        with checkpoint_read(folder / CHECKPOINT, TuningError) as state:
            if state["identity"] != self._identity:
                raise TuningError(f"{folder / CHECKPOINT} is of another tuning: other data, units, settings or model.")
            for part, weight in zip(self.trained, state["weights"], strict=True):
                part.parameter.data.copy_(weight)
            self.optimizer.load_state_dict(state["optimizer"])
            return [Losses(*of_update) for of_update in state["losses"]]

    @cached_property
    def _identity(self) -> str:
        """sha256 of all that the result depends on."""
        digest = hashlib.sha256(json.dumps(asdict(replace(self.config, checkpoint_every=1))).encode())
        digest.update(f"{self.model.fingerprint} {self.data.digest} {len(self.trained)}".encode())
        for part in self.trained:
            if part.mask is not None:
                digest.update(part.mask.nonzero().cpu().numpy().tobytes())
        return digest.hexdigest()
