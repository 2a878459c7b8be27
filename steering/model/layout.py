"""The only place that names modules of Hugging Face models: where blocks, norms and projections live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steering.errors import LayerOutOfRange, UnsupportedModel
from steering.model.families import SUPPORTED, Config, check_supported, rope_parameters
from steering.site import Component, Site
from steering.unit import Unit, UnitKind

ROWS_IN_CACHE = 8
"""Rows whose candidates are read at once on a CPU: [R, C, D] of more falls out of the cache, at twice the price."""

Matrix = Literal["q", "k", "v", "o", "gate", "up", "down"]


class LinearUnembed:
    """Final norm, unembedding and final soft-cap, shared with the model (no copy)."""

    def __init__(self, norm: nn.Module, lm_head: nn.Linear, softcap: float | None = None) -> None:
        """softcap: logits become softcap * tanh(logits / softcap), as Gemma-2's do; None leaves them."""
        self.norm, self.lm_head, self.softcap = norm, lm_head, softcap
        self._norm_weight = next(norm.parameters(), lm_head.weight)

    def logits(self, h: Tensor) -> Tensor:
        """[..., D] before the final norm -> [..., V], on the device of h."""
        return self.normed_logits(self._normed(h)).to(h.device)

    def normed_logits(self, normed: Tensor) -> Tensor:
        """[..., D] after the final norm (what the base model returns) -> [..., V], on the device of `normed`."""
        return self._capped(self.lm_head(normed.to(self.lm_head.weight.device))).to(normed.device)

    def candidate_logits(self, h: Tensor, ids: Tensor) -> Tensor:
        """[R, D] before the final norm, [R, C] token ids -> [R, C], on the device of h."""
        ids = ids.to(self.lm_head.weight.device)
        normed = self._normed(h).to(ids.device)
        size = ROWS_IN_CACHE if ids.device.type == "cpu" else len(ids)
        if len(ids) > size:
            starts = range(0, len(ids), size)
            logits = torch.cat([self._products(normed[i : i + size], ids[i : i + size]) for i in starts])
        else:
            logits = self._products(normed, ids)
        return self._capped(logits if self.lm_head.bias is None else logits + self.lm_head.bias[ids]).to(h.device)

    def _products(self, normed: Tensor, ids: Tensor) -> Tensor:
        rows = F.embedding(ids, self.lm_head.weight)  # [R, C, D], a copy; faster than indexing
        return rows.mul_(normed.unsqueeze(-2)).sum(-1)  # on CPU 4x faster than a batched product

    def _normed(self, h: Tensor) -> Tensor:
        normed: Tensor = self.norm(h.to(self._norm_weight.device))
        return normed

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


@dataclass(frozen=True)
class Slice:
    """Consecutive rows (dim 0) or columns (dim 1) of the weight of a linear."""

    linear: nn.Linear
    dim: int
    first: int
    length: int


@dataclass(frozen=True)
class Layout:
    """Sizes and modules of one decoder-only model."""

    num_layers: int
    d_model: int
    num_heads: int
    num_groups: int
    """KV groups (GQA): num_heads / num_groups query heads share one K and V."""
    head_dim: int
    d_mlp: int
    vocab_size: int
    """Width of the logits; may exceed the tokenizer's vocabulary."""
    context: int
    """Most positions the model was made for, and at which its RoPE frequencies do not depend on the length."""
    base: nn.Module
    """Embeddings, blocks and final norm: returns normed hidden states."""
    blocks: Sequence[nn.Module]
    mlp_outputs: Sequence[nn.Linear | None]
    """down_proj of each block, its input is the site `mlp_act`; None where a block is a mixture of experts."""
    projections: Sequence[Mapping[Matrix, tuple[nn.Linear, int]]]
    """Of each block, which linear holds a matrix and from which row on, for some families fuse several into one. No
    gate, up and down where a block is a mixture of experts."""
    unembed: LinearUnembed

    def kv_bytes_per_token(self, dtype: torch.dtype) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.num_layers * self.num_groups * self.head_dim * dtype.itemsize

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where each block is: several for a model spread over GPUs."""
        return tuple(next(block.parameters()).device for block in self.blocks)

    def width(self, component: Component) -> int:
        """Features of a site: resid_post D, attn_z H*K, mlp_act F."""
        widths = {"resid_post": self.d_model, "attn_z": self.num_heads * self.head_dim, "mlp_act": self.d_mlp}
        return widths[component]

    def check_site(self, site: Site) -> None:
        if site.layer >= self.num_layers:
            raise LayerOutOfRange(
                f"layer {site.layer} is out of range 0..{self.num_layers - 1} for this model ({site})."
            )
        if site.component == "mlp_act" and self.mlp_outputs[site.layer] is None:
            raise LayerOutOfRange(
                f"layer {site.layer} is a mixture of experts, which has no single MLP activation ({site}); "
                f"attn_z.{site.layer} and resid_post.{site.layer} can be corrected."
            )

    def unit_parts(self, kind: UnitKind) -> tuple[tuple[Matrix, int, int], ...]:
        """What of a block's matrices is a unit's own: (matrix, dimension of its weight, how many rows or columns)."""
        if kind == "neuron":
            return ("gate", 0, 1), ("up", 0, 1), ("down", 1, 1)
        heads = self.num_heads // self.num_groups * self.head_dim
        return ("q", 0, heads), ("k", 0, self.head_dim), ("v", 0, self.head_dim), ("o", 1, heads)

    def num_deltas(self, units: Iterable[Unit]) -> int:
        """P: rows and columns of weights that are these units' own."""
        counts = Counter(unit.kind for unit in units)
        return sum(count * sum(length for *_, length in self.unit_parts(kind)) for kind, count in counts.items())

    def slices(self, unit: Unit) -> tuple[Slice, ...]:
        """Where a unit's own rows and columns are, in the order of `SparseWeights.deltas`."""
        held = self.projections[unit.layer]
        parts = [(*held[name], dim, length) for name, dim, length in self.unit_parts(unit.kind)]
        return tuple(Slice(linear, dim, first + unit.index * length, length) for linear, first, dim, length in parts)

    def check_units(self, units: Iterable[Unit]) -> None:
        """Raises `LayerOutOfRange`, with the range. units: ascending, so that the last of a block stands for all."""
        for unit in {(unit.kind, unit.layer): unit for unit in units}.values():
            self._check_unit(unit)

    def _check_unit(self, unit: Unit) -> None:
        count = self.num_groups if unit.kind == "group" else self.d_mlp
        for name, value, limit in (("layer", unit.layer, self.num_layers), (unit.kind, unit.index, count)):
            if value >= limit:
                raise LayerOutOfRange(f"{name} {value} is out of range 0..{limit - 1} for this model ({unit}).")
        if unit.kind == "neuron" and "down" not in self.projections[unit.layer]:
            raise LayerOutOfRange(
                f"layer {unit.layer} is a mixture of experts, whose neurons are each expert's own ({unit}); "
                f"its KV groups can be changed: group.{unit.layer}.0 to group.{unit.layer}.{self.num_groups - 1}."
            )

    def units_at(self, site: Site, features: Tensor) -> list[Unit]:
        """The KV groups or neurons that features [W] of a site, bool, belong to; none in the residual stream."""
        if site.component == "resid_post":
            return []
        kind: UnitKind = "group" if site.component == "attn_z" else "neuron"
        size = self.num_heads // self.num_groups * self.head_dim if kind == "group" else 1
        return [Unit(kind, site.layer, i) for i in features.view(-1, size).any(-1).nonzero().flatten().tolist()]

    def group_features(self, groups: Sequence[int]) -> list[int]:
        """Indices into attn_z [H*K] of the query heads that share the K and V of each KV group."""
        size = self.num_heads // self.num_groups * self.head_dim
        for group in groups:
            if not 0 <= group < self.num_groups:
                raise LayerOutOfRange(f"KV group {group} is out of range 0..{self.num_groups - 1} for this model.")
        return [feature for group in groups for feature in range(group * size, (group + 1) * size)]


def layout_of(hf: Any) -> Layout:
    """Layout of a loaded `PreTrainedModel`; raises `UnsupportedModel` for other families."""
    config = hf.config
    check_supported(config.to_dict())
    if (served := SUPPORTED[config.model_type]) not in [cls.__name__ for cls in type(hf).__mro__]:
        raise UnsupportedModel(f"model type {config.model_type!r} is served as {served}, not as {type(hf).__name__}.")
    base = hf.model
    return Layout(
        num_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_groups=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        d_mlp=config.intermediate_size,
        vocab_size=hf.lm_head.out_features,
        context=_context(config.to_dict()),
        base=base,
        blocks=list(base.layers),
        mlp_outputs=[getattr(block.mlp, "down_proj", None) for block in base.layers],
        projections=[_projections(block) for block in base.layers],
        unembed=LinearUnembed(base.norm, hf.lm_head, getattr(config, "final_logit_softcapping", None)),
    )


def _projections(block: Any) -> dict[Matrix, tuple[nn.Linear, int]]:
    attention, mlp = block.self_attn, block.mlp
    held: dict[Matrix, tuple[nn.Linear, int]] = {"o": (attention.o_proj, 0)}
    if (fused := getattr(attention, "qkv_proj", None)) is not None:
        num_queries = attention.o_proj.in_features
        held |= {"q": (fused, 0), "k": (fused, num_queries), "v": (fused, (num_queries + fused.out_features) // 2)}
    else:
        held |= {"q": (attention.q_proj, 0), "k": (attention.k_proj, 0), "v": (attention.v_proj, 0)}
    if (down := getattr(mlp, "down_proj", None)) is None:
        return held
    if (fused := getattr(mlp, "gate_up_proj", None)) is not None:
        return held | {"gate": (fused, 0), "up": (fused, down.in_features), "down": (down, 0)}
    return held | {"gate": (mlp.gate_proj, 0), "up": (mlp.up_proj, 0), "down": (down, 0)}


def _context(config: Config) -> int:
    """Beyond its original length longrope turns to other frequencies, for all rows of a forward at once and for keys
    that were already written: no row may get there."""
    longropes = [rope for rope in rope_parameters(config) if rope.get("rope_type") == "longrope"]
    lengths: list[int] = [rope["original_max_position_embeddings"] for rope in longropes]
    lengths.append(config["max_position_embeddings"])
    return min(lengths)
