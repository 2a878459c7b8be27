"""Lens: hidden state -> logits at a layer, over the whole vocabulary or on a candidate set; drift between the two.

Index convention of Belrose et al. 2023 (arXiv 2303.08112) and of the tuned-lens package: a lens at `layer` i reads
hidden_states[i], that is 0 = embeddings and i = output of block i-1. The last hidden state needs no translator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class Unembed(Protocol):
    """Final norm and unembedding of a model (`steering.model.layout`)."""

    def logits(self, h: Tensor) -> Tensor:
        """[..., D] hidden states before the final norm -> [..., V]."""
        ...

    def candidate_logits(self, h: Tensor, ids: Tensor) -> Tensor:
        """[R, D] hidden states before the final norm, [R, C] token ids -> [R, C]; rows of the unembedding only."""
        ...


@dataclass(frozen=True, eq=False)
class LogitLens:
    """logits = unembed(norm(h)) (nostalgebraist 2020)."""

    layer: int

    def translate(self, h: Tensor) -> Tensor:
        return h


@dataclass(frozen=True, eq=False)
class TunedLens:
    """logits = unembed(norm(h + A h + b)): the residual parametrisation, zero at the start (Belrose et al. 2023)."""

    layer: int
    weight: Tensor
    """A, [D, D]"""
    bias: Tensor
    """b, [D]"""

    def translate(self, h: Tensor) -> Tensor:
        return h + F.linear(h, self.weight, self.bias)


Lens = LogitLens | TunedLens


def full_readout(lens: Lens, unembed: Unembed, h: Tensor) -> Tensor:
    """[..., D] hidden states at `lens.layer` -> [..., V] logits. What a detector reads, on all tokens."""
    return unembed.logits(lens.translate(h))


def drift(logprobs: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits, 0 to 1, of early and late on the same candidates.

    [2, R, C] log-probabilities, each side summing to 1 on its candidates. Returns [R].
    """
    probs = logprobs.exp()
    log_mean = probs.mean(0).clamp_min(1e-38).log()
    js = (probs * (logprobs - log_mean)).sum(-1).sum(0) / (2 * math.log(2))
    return js.clamp(0.0, 1.0)
