"""Changed weights beside the model's own: what its linears add for the rows that carry them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steering.edit import SparseWeights
from steering.model.layout import Layout, Slice


@dataclass(frozen=True, eq=False)
class Patch:
    """Change of some rows (dim 0) or columns (dim 1) of one linear's weight."""

    linear: nn.Linear
    dim: int
    features: Tensor
    """[f] indices of these rows or columns"""
    deltas: Tensor
    """[f, D]"""

    def added(self, x: Tensor) -> Tensor:
        """x [R, in] -> x dW^T: what the features gain, [R, f] (dim 0), or the whole output, [R, D] (dim 1)."""
        return F.linear(x, self.deltas) if self.dim == 0 else x[:, self.features] @ self.deltas


@dataclass(frozen=True, eq=False)
class WeightDose:
    """A patch and the packed tokens that carry it."""

    patch: Patch
    c: Tensor
    """[R, 1]"""
    rows: Tensor | None
    """[R] the tokens, none with c = 0; None: all of them, and c may be 0."""

    def apply(self, x: Tensor, y: Tensor) -> None:
        """x [N, in] and y [N, out], what the linear made of it, to which c x dW^T is added in place.

        Only rows that carry the patch are computed, or where `rows` is None all of them, so that shapes stay the
        same. The others keep every bit.
        """
        features = self.patch.features
        place: tuple[Tensor | slice, ...] = (slice(None) if self.rows is None else self.rows,)
        if self.patch.dim == 0:
            place = (slice(None), features) if self.rows is None else (self.rows[:, None], features)
        before = y[place]
        after = before + self.c * self.patch.added(x if self.rows is None else x[self.rows])
        y[place] = after if self.rows is not None else torch.where(self.c != 0, after, before)


def patches(layout: Layout, edit: SparseWeights) -> tuple[Patch, ...]:
    """One for each linear and dimension that the edit touches, on the device of its weight."""
    touched: dict[tuple[nn.Linear, int], list[tuple[Slice, Tensor]]] = {}
    first = 0
    for unit in edit.units:
        for part in layout.slices(unit):
            deltas = edit.deltas[first : first + part.length]
            touched.setdefault((part.linear, part.dim), []).append((part, deltas))
            first += part.length
    return tuple(_patch(linear, dim, pieces) for (linear, dim), pieces in touched.items())


def _patch(linear: nn.Linear, dim: int, pieces: list[tuple[Slice, Tensor]]) -> Patch:
    features = torch.cat([torch.arange(part.first, part.first + part.length) for part, _ in pieces])
    deltas = torch.cat([deltas for _, deltas in pieces])
    return Patch(linear, dim, features.to(linear.weight.device), deltas.to(linear.weight.device))
