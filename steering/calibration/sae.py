"""SAE: a sparse autoencoder of MLP activations, wherever it comes from. Z: its number of features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """x ~ f(x) decoder + decoder_bias, most of f(x) zero. A bias taken off x first is part of the encoder's."""

    encoder: Tensor
    """[F, Z]"""
    encoder_bias: Tensor
    """[Z]"""
    decoder: Tensor
    """[Z, F]"""
    decoder_bias: Tensor
    """[F]"""
    threshold: Tensor
    """[Z] what a feature must exceed to be active (JumpReLU); 0 for ReLU and top-k"""
    k: int | None = None
    """Top-k: the most features that are active at once."""

    @property
    def width(self) -> int:
        """F"""
        return len(self.encoder)

    @property
    def num_features(self) -> int:
        """Z"""
        return len(self.decoder)

    def encode(self, x: Tensor) -> Tensor:
        """[N, F] -> [N, Z], dense, in the SAE's own type: pass many rows a portion at a time."""
        before = x.to(self.encoder) @ self.encoder + self.encoder_bias
        active = torch.where(before > self.threshold, before, 0.0)
        return active if self.k is None else keep_largest(active, self.k)

    def decode(self, features: Tensor) -> Tensor:
        """[N, Z] -> [N, F]"""
        return features @ self.decoder + self.decoder_bias


def keep_largest(features: Tensor, k: int) -> Tensor:
    """[N, Z] -> the same with all but the k largest of each row zero."""
    largest = features.topk(min(k, features.shape[-1]), sorted=False)
    return torch.zeros_like(features).scatter(-1, largest.indices, largest.values)
