"""Fit tuned lenses (Belrose et al. 2023, arXiv 2303.08112): translators that make early hidden states readable.

Objective: KL(final || lens), summed over the vocabulary, mean over tokens. SGD with Nesterov momentum, linear decay,
weight decay, clipping, all as in the paper; A and b start at zero, so an unfitted lens is the logit lens. The model
runs once: translators learn from its recorded states, all layers in one pass over them.

Departures: the learning rate is a field, since a small model needs fewer and larger steps; and every translator is
clipped by its own norm, so that what a layer learns does not depend on which others share the pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from steering.calibration.checkpoint import checkpoint_read, save_checkpoint
from steering.lens import TunedLens, Unembed
from steering.model.loading import LanguageModel
from steering.model.record import record

TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class LensFit:
    """How long and how fast to fit."""

    updates: int = 300
    batch_tokens: int = 256
    learning_rate: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    seed: int = 0
    checkpoint_every: int = 50
    """Updates, where there is a file for a checkpoint."""


@dataclass(frozen=True)
class States:
    """Hidden states of some text, before the final norm."""

    early: Tensor
    """[L-1, N, D]: lens layers 1 .. L-1"""
    final: Tensor
    """[N, D]"""


def record_states(model: LanguageModel, texts: Sequence[Sequence[int]]) -> States:
    """States at every token of the texts."""
    last = model.layout.num_layers
    parts = []
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        hidden = record(model, texts[first : first + TEXTS_AT_ONCE]).hidden
        parts.append(torch.stack([hidden[layer] for layer in range(1, last + 1)]))
    states = torch.cat(parts, dim=1)
    return States(states[:-1], states[-1])


def fit_lenses(
    states: States, unembed: Unembed, fit: LensFit, *, checkpoint: Path | None = None
) -> dict[int, TunedLens]:
    """Lens layer -> tuned lens, for the layers 1 .. L-1.

    checkpoint: a file from which an interrupted fit of the same states goes on, to the same lenses.
    """
    num_lenses, N, D = states.early.shape
    weight = torch.zeros(num_lenses, D, D, device=states.early.device, requires_grad=True)
    bias = torch.zeros(num_lenses, D, device=states.early.device, requires_grad=True)
    optimizer = torch.optim.SGD(
        [weight, bias],
        lr=fit.learning_rate,
        momentum=fit.momentum,
        weight_decay=fit.weight_decay,
        nesterov=True,
    )
    generator = torch.Generator().manual_seed(fit.seed)
    identity = _identity(states, fit)
    first = _resume(checkpoint, identity, (weight, bias), optimizer, generator) if checkpoint else 0
    for update in range(first, fit.updates):
        for group in optimizer.param_groups:
            group["lr"] = fit.learning_rate * (1 - update / fit.updates)
        tokens = torch.randint(N, (fit.batch_tokens,), generator=generator)
        loss = divergence(_translate(states.early[:, tokens], weight, bias), states.final[tokens], unembed).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        _clip([weight, bias], fit.clip_norm)
        optimizer.step()
        if checkpoint and (update + 1) % fit.checkpoint_every == 0:
            state = {"identity": identity, "update": update + 1, "lenses": [weight.data, bias.data]}
            save_checkpoint(
                checkpoint, state | {"optimizer": optimizer.state_dict(), "generator": generator.get_state()}
            )
    return {i + 1: TunedLens(i + 1, weight[i].detach().clone(), bias[i].detach().clone()) for i in range(num_lenses)}


def divergence(translated: Tensor, final: Tensor, unembed: Unembed) -> Tensor:
    """Mean KL(final || lens) in nats. translated: [lenses, n, D]; final: [n, D]. Returns [lenses]."""
    with torch.no_grad():
        target = unembed.logits(final).float().log_softmax(-1)
    read = unembed.logits(translated.to(final.dtype)).float().log_softmax(-1)
    return (target.exp() * (target - read)).sum(-1).mean(-1)


def _translate(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[lenses, n, D] -> the same through each layer's own translator."""
    h = h.float()
    return h + torch.baddbmm(bias[:, None], h, weight.transpose(1, 2))


def _clip(parameters: Sequence[Tensor], norm: float) -> None:
    """Scales each layer's gradient, over all its parameters, to at most `norm`."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    squares = [g.flatten(1).square().sum(1) for g in gradients]
    factor = (norm / torch.stack(squares).sum(0).sqrt()).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))


def _resume(
    path: Path,
    identity: str,
    lenses: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> int:
    """Updates done so far, put back into place; 0 without a checkpoint, or with one of another fit."""
    if not path.exists():
        return 0
    with checkpoint_read(path) as state:
        if state["identity"] != identity:
            return 0
        for parameter, kept in zip(lenses, state["lenses"], strict=True):
            parameter.data.copy_(kept)
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        return int(state["update"])


def _identity(states: States, fit: LensFit) -> str:
    """sha256 of all that the lenses depend on; the early states follow from the same texts as the final ones."""
    digest = hashlib.sha256(repr((asdict(fit), states.early.shape)).encode())
    digest.update(states.final.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
