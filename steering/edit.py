"""What: an edit is a function that returns a delta. The runtime alone adds it: h[n] += c[n] * delta(h[n]).

The tensors of an edit of hidden states may have one more dimension in front, R: then row r of h is edited by the r-th
of R edits (`stacked`), at the price of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.lens import drift
from steering.unit import Unit


@dataclass(frozen=True, eq=False)
class Set:
    """delta = mask * (target - h): at c = 1 the masked features become `target`."""

    target: Tensor
    """[W] values to reach, W the width of the site."""
    mask: Tensor
    """[W] bool, True where the edit acts (for a head group: its H/G * K features)."""

    @property
    def features(self) -> Tensor:
        """[W] bool: those it can change."""
        return self.mask

    def delta(self, h: Tensor) -> Tensor:
        return torch.where(self.mask, self.target - h, 0.0)


@dataclass(frozen=True, eq=False)
class Scale:
    """delta = (factor - 1) * h: at c = 1 features are multiplied by `factor` (1 leaves them alone)."""

    factor: Tensor
    """[W]"""

    @property
    def features(self) -> Tensor:
        return self.factor != 1.0

    def delta(self, h: Tensor) -> Tensor:
        return h * (self.factor - 1.0)


@dataclass(frozen=True, eq=False)
class Shift:
    """delta = vector (CAA, ITI, probe and SAE directions)."""

    vector: Tensor
    """[W]"""

    @property
    def features(self) -> Tensor:
        return self.vector != 0.0

    def delta(self, h: Tensor) -> Tensor:
        return self.vector.expand_as(h)


@dataclass(frozen=True, eq=False)
class Project:
    """delta = -(h D^T) D: at c = 1 the subspace spanned by the orthonormal rows of `basis` is removed."""

    basis: Tensor
    """[k, W], rows orthonormal"""

    @property
    def features(self) -> Tensor:
        return (self.basis != 0.0).any(-2)

    def delta(self, h: Tensor) -> Tensor:
        if self.basis.ndim == 2:
            return -(h @ self.basis.T) @ self.basis
        # Row by row, and no matrix product: its bits would depend on how many rows there are.
        along = (h.unsqueeze(-2) * self.basis).sum(-1, keepdim=True)  # [R, k, 1]
        delta = -along[:, 0] * self.basis[:, 0]
        for i in range(1, self.basis.shape[1]):
            delta = delta - along[:, i] * self.basis[:, i]
        return delta


Edit = Set | Scale | Shift | Project


def kind_of(edit: Edit | SparseWeights) -> tuple[object, ...]:
    """Its type and the shapes of its tensors: what edits must have in common to be stacked."""
    return type(edit), *(tensor.shape for tensor in _tensors(edit).values())


def stacked(edits: Sequence[Edit]) -> Edit:
    """R edits of one kind as one, for R rows of h; a single one is for any number of rows."""
    each = [_tensors(edit) for edit in edits]
    return type(edits[0])(**{name: torch.stack([tensors[name] for tensors in each]) for name in each[0]})


def moved(edit: Edit, device: torch.device) -> Edit:
    """Tensors of a plan are on the model's first device, a block may be on another."""
    return type(edit)(**{name: tensor.to(device) for name, tensor in _tensors(edit).items()})


def _tensors(edit: Edit | SparseWeights) -> dict[str, Tensor]:
    return {name: value for name, value in vars(edit).items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class LensContrast:
    """Contrast of early and late answer at the logits, on the candidate set C (METHODS: lens contrast).

    log p = log p_L + a (log p_E|C - log p_L|C) on C, rescaled so that C keeps its mass; outside C nothing changes.
    `a` is the correction's c (strength * gate), clamped to [0, 1]: 0 is the identity.
    """

    plausibility: float = 0.0
    """beta: candidates with p_L|C < beta * max p_L|C keep their late probability; 0 cuts nothing."""

    def __post_init__(self) -> None:
        _check_plausibility(self.plausibility)

    def delta(self, early: Tensor, late: Tensor, c: Tensor) -> Tensor:
        """What to add to the late logits of the candidates.

        early, late: [R, C] logits of the same candidate ids; c: [R, 1]. Returns [R, C]; 0 exactly where c = 0.
        """
        log_early, log_late = early.log_softmax(-1), late.log_softmax(-1)
        moved = log_late + c.clamp(0.0, 1.0) * (log_early - log_late)
        kept = _plausible(log_late, self.plausibility)
        gained = _log_sum(moved, kept) - _log_sum(log_late, kept)
        return torch.where(kept & (c > 0.0), moved - gained - log_late, 0.0)


@dataclass(frozen=True)
class LayerContrast:
    """Contrast of the output with an early layer over all tokens: DoLa (Chuang et al. 2023, arXiv 2309.03883).

    log p = log p_L - a log p_j on {p_L >= beta * max p_L}, -inf outside; j is the layer of the bucket whose answer,
    read by the logit lens, is farthest from p_L by Jensen-Shannon. `a` is the correction's c, clamped to [0, 1]: 1 is
    DoLa, at or below 0 nothing changes, the cut neither. It costs a full read-out, D x V, per layer of the bucket and
    row that carries it (in deterministic mode per row of the step, as soon as one carries it).
    """

    bucket: tuple[int, ...]
    """Layers i, ascending, each once: hidden_states[i], 0 = embeddings, as a lens counts them."""
    plausibility: float = 0.1
    """beta"""

    def __post_init__(self) -> None:
        _check_plausibility(self.plausibility)
        if not self.bucket or list(self.bucket) != sorted(set(self.bucket)) or self.bucket[0] < 0:
            raise ValueError(f"bucket must be layers >= 0, in ascending order, each once, got {self.bucket}")

    def delta(self, early: Iterable[Tensor], late: Tensor, c: Tensor) -> Tensor:
        """What to add to the late logits.

        early: [R, V] logits of each layer of the bucket, taken one at a time; late: [R, V]; c: [R, 1]. Returns [R, V];
        0 exactly where c <= 0.
        """
        log_late = late.log_softmax(-1)
        farthest, distance = torch.zeros_like(log_late), torch.full_like(log_late[:, 0], -1.0)
        for logits in early:
            log_early = logits.log_softmax(-1)
            bits = drift(torch.stack((log_early, log_late)))
            farthest = torch.where((bits > distance)[:, None], log_early, farthest)
            distance = torch.maximum(bits, distance)
        moved = torch.where(_plausible(log_late, self.plausibility), -c.clamp(0.0, 1.0) * farthest, -math.inf)
        return torch.where(c > 0.0, moved, 0.0)


def _check_plausibility(plausibility: float) -> None:
    if not 0.0 <= plausibility < 1.0:
        raise ValueError(f"plausibility must be in [0, 1), got {plausibility}")


def _plausible(logprobs: Tensor, plausibility: float) -> Tensor:
    """[R, C] bool: p >= plausibility * max p."""
    cut = math.log(plausibility) if plausibility > 0.0 else -math.inf
    return logprobs >= logprobs.amax(-1, keepdim=True) + cut


def _log_sum(logprobs: Tensor, kept: Tensor) -> Tensor:
    """[R, C] -> [R, 1]: log of the mass of the kept candidates."""
    return torch.where(kept, logprobs, -math.inf).logsumexp(-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class SparseWeights:
    """Trained changes dW of chosen units' weights, kept apart from the model: its linears put out W x + c dW x for the
    rows that carry them, as a model with the weights W + c dW would.

    All a unit reads the residual stream with, and all it writes into it, are vectors of one width. What it reads with
    are rows of the weights of q, k, v, gate and up; what it writes are columns of o and down.
    """

    units: tuple[Unit, ...]
    """Ascending, each once."""
    deltas: Tensor
    """[P, D] unit after unit: a group's rows of q, k and v, then its columns of o; a neuron's rows of gate and up, then
    its column of down."""

    def __post_init__(self) -> None:
        if not self.units or list(self.units) != sorted(set(self.units)):
            raise ValueError("units must be at least one, in ascending order, each once")
        if self.deltas.ndim != 2 or len(self.deltas) < len(self.units):
            raise ValueError(f"deltas must be [P, D] with several vectors a unit, got {list(self.deltas.shape)}")

    @property
    def lowest_layer(self) -> int:
        return min(unit.layer for unit in self.units)
