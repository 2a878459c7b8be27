"""Head groups: what the query heads that share a key and value put out on neutral questions, and setting them to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from steering.calibration.data import answer_position
from steering.calibration.localisation import Unit, by_block
from steering.contrast.item import Item
from steering.correction import Correction
from steering.edit import Set
from steering.gate import Gate
from steering.model.layout import Layout
from steering.model.loading import LanguageModel
from steering.model.record import record_rows
from steering.site import Component, Site

ITEMS_AT_ONCE = 64


def groups_from(layout: Layout, layer: int) -> list[Unit]:
    """Every group of the blocks `layer` and above."""
    return [Unit(block, i) for block in range(layer, layout.num_layers) for i in range(layout.num_groups)]


def neutral_means(model: LanguageModel, items: Sequence[Item], component: Component = "attn_z") -> dict[int, Tensor]:
    """Block -> mean attn_z [H*K], or mlp_act [F], at the position that decides the answer's first token."""
    sums: dict[int, Tensor] = {}
    sites = [Site(component, layer) for layer in range(model.layout.num_layers)]
    for i in range(0, len(items), ITEMS_AT_ONCE):
        texts = answer_position(model, items[i : i + ITEMS_AT_ONCE])
        recording = record_rows(model, texts, [[len(text) - 1] for text in texts], sites)
        for layer, h in (recording.attn_z | recording.mlp_act).items():
            sums[layer] = sums.get(layer, 0.0) + h.double().sum(0)
    return {layer: (total / len(items)).to(model.dtype) for layer, total in sums.items()}


def set_to_means(
    layout: Layout, means: Mapping[int, Tensor], groups: Iterable[Unit], gate: Gate
) -> tuple[Correction, ...]:
    """One correction a block: its chosen groups set to their neutral means."""
    return tuple(_correction(layout, layer, indices, means[layer], gate) for layer, indices in by_block(groups).items())


def _correction(layout: Layout, layer: int, indices: Sequence[int], mean: Tensor, gate: Gate) -> Correction:
    mask = torch.zeros(mean.shape, dtype=torch.bool, device=mean.device)
    mask[layout.group_features(indices)] = True
    target = torch.where(mask, mean, 0.0)
    return Correction(f"groups.{layer}", Site("attn_z", layer), Set(target, mask), gate)
