"""Lens: hidden state -> logits at a layer, over the whole vocabulary or on a candidate set; drift between the two.

Index convention of Belrose et al. 2023 (arXiv 2303.08112) and of the tuned-lens package: a lens at `layer` i reads
hidden_states[i], that is 0 = embeddings and i = output of block i-1. The last hidden state needs no translator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

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
        return h + h @ self.weight.T + self.bias


Lens = LogitLens | TunedLens


def full_readout(lens: Lens, unembed: Unembed, h: Tensor) -> Tensor:
    """[..., D] hidden states at `lens.layer` -> [..., V] logits. What a detector reads, on all tokens."""
    return unembed.logits(lens.translate(h))


def drift(early: Tensor, late: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits, 0 to 1, of the two distributions conditioned on their candidates.

    early, late: [R, C] logits of the same ids. Returns [R].
    """
    log_p, log_q = early.log_softmax(-1), late.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    log_m = ((p + q) / 2).clamp_min(1e-38).log()
    js = (p * (log_p - log_m) + q * (log_q - log_m)).sum(-1) / 2
    return (js / math.log(2)).clamp(0.0, 1.0)
