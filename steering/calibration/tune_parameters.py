"""The parameters that tuning changes: where they may change, what they were, and how far they have come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.edit import SparseWeights
from steering.errors import TuningError
from steering.model.layout import Layout
from steering.model.loading import LanguageModel
from steering.unit import Unit


@dataclass(frozen=True, eq=False)
class Trained:
    """A parameter under training."""

    parameter: Tensor
    start: Tensor
    """What it was."""
    mask: Tensor | None
    """True where it may change; None: everywhere."""

    @property
    def decays(self) -> bool:
        """Weight decay is for matrices trained whole: it would shrink what a mask keeps."""
        return self.mask is None and self.parameter.ndim > 1


@contextmanager
def under_training(model: LanguageModel, units: Sequence[Unit] | None) -> Iterator[list[Trained]]:
    """The parameters that hold these units, or all of them (None), ready for gradients on copies; afterwards the model
    is as it was."""
    if model.quantized is not None or model.dtype != torch.float32:
        kind = model.quantized or str(model.dtype).removeprefix("torch.")
        raise TuningError(f"a model is tuned in float32, this one is {kind}: load it with dtype float32, unquantised.")
    if units is None:
        trained = [Trained(parameter, parameter.data, None) for parameter in model.hf.parameters()]
    else:
        trained = [Trained(parameter, parameter.data, mask) for parameter, mask in _masks(model.layout, units).items()]
    try:
        for part in trained:
            part.parameter.data = part.start.clone()
            part.parameter.requires_grad_(True)
        yield trained
    finally:
        for part in trained:
            part.parameter.requires_grad_(False)
            part.parameter.data, part.parameter.grad = part.start, None


def _masks(layout: Layout, units: Sequence[Unit]) -> dict[Tensor, Tensor]:
    masks: dict[Tensor, Tensor] = {}
    for part in (part for unit in units for part in layout.slices(unit)):
        weight = part.linear.weight
        if weight not in masks:
            masks[weight] = torch.zeros_like(weight, dtype=torch.bool)
        masks[weight].narrow(part.dim, part.first, part.length).fill_(True)
    return masks


def difference(layout: Layout, units: Sequence[Unit], trained: Sequence[Trained]) -> SparseWeights:
    """How far these units are from where they started."""
    starts = {part.parameter: part.start for part in trained}
    deltas = []
    for unit in units:
        for part in layout.slices(unit):
            weight = part.linear.weight
            changed = (weight.detach() - starts[weight]).narrow(part.dim, part.first, part.length)
            deltas.append(changed if part.dim == 0 else changed.T)
    device = layout.devices[0]
    return SparseWeights(tuple(units), torch.cat([delta.to(device) for delta in deltas]))


@contextmanager
def as_before(trained: Sequence[Trained]) -> Iterator[None]:
    """The model as it was, for a while. Gradients must not be taken across."""
    now = [part.parameter.data for part in trained]
    for part in trained:
        part.parameter.data = part.start
    try:
        yield
    finally:
        for part, data in zip(trained, now, strict=True):
            part.parameter.data = data
