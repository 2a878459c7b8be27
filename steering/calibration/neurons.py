"""Neurons: setting them to what they hold on neutral questions, scaling them, and random ones to hold them against.

For tuning, the units are what `calibration.tune` takes as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from steering.calibration.localisation import by_block
from steering.correction import Correction
from steering.edit import Edit, Scale, Set
from steering.gate import Gate
from steering.model.layout import Layout
from steering.model.loading import LanguageModel
from steering.site import Site
from steering.unit import Unit


def neurons_from(neurons: Iterable[Unit], layer: int) -> tuple[Unit, ...]:
    """Those of the blocks `layer` and above: all that a drift gate, whose lens reads that layer, can correct."""
    return tuple(unit for unit in neurons if unit.layer >= layer)


def set_neurons(means: Mapping[int, Tensor], neurons: Iterable[Unit], gate: Gate) -> tuple[Correction, ...]:
    """One correction a block: its chosen neurons set to their means (`head_groups.neutral_means` of mlp_act)."""

    def edit(layer: int, chosen: Sequence[int]) -> Edit:
        mask = torch.zeros_like(means[layer], dtype=torch.bool)
        mask[list(chosen)] = True
        return Set(torch.where(mask, means[layer], 0.0), mask)

    return _corrections(neurons, edit, gate)


def scale_neurons(model: LanguageModel, factor: float, neurons: Iterable[Unit], gate: Gate) -> tuple[Correction, ...]:
    """One correction a block: its chosen neurons multiplied; 0 switches them off."""

    def edit(layer: int, chosen: Sequence[int]) -> Edit:
        factors = torch.ones(model.layout.d_mlp, dtype=model.dtype, device=model.device)
        factors[list(chosen)] = factor
        return Scale(factors)

    return _corrections(neurons, edit, gate)


def random_like(layout: Layout, neurons: Iterable[Unit], seed: int) -> tuple[Unit, ...]:
    """As many neurons of each block, any of the block's."""
    rng = random.Random(f"{seed}|neurons")
    return tuple(
        Unit("neuron", layer, index)
        for layer, chosen in by_block(neurons).items()
        for index in sorted(rng.sample(range(layout.d_mlp), len(chosen)))
    )


def _corrections(
    neurons: Iterable[Unit], edit: Callable[[int, Sequence[int]], Edit], gate: Gate
) -> tuple[Correction, ...]:
    return tuple(
        Correction(f"neurons.{layer}", Site("mlp_act", layer), edit(layer, chosen), gate)
        for layer, chosen in by_block(neurons).items()
    )
