"""A stock Hugging Face model whose weights really are W + c dW: what rows that carry `SparseWeights` must equal.

Where a unit's rows and columns are is written out here by their names in checkpoints, apart from the code under test.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steering.edit import SparseWeights


@torch.no_grad()
def patched(hf: PreTrainedModel, *changes: tuple[float, SparseWeights]) -> PreTrainedModel:
    """A copy of `hf`; changes: (c, what changes)."""
    changed = copy.deepcopy(hf)
    weights = dict(changed.named_parameters())
    for c, edit in changes:
        deltas = list(edit.deltas)
        for unit in edit.units:
            for piece in _pieces(changed, unit.kind, unit.layer, unit.index, weights):
                for vector in piece:
                    vector += c * deltas.pop(0)
        assert not deltas
    return changed


def _pieces(hf: PreTrainedModel, kind: str, layer: int, index: int, weights: dict[str, Tensor]) -> list[Tensor]:
    """Views of a unit's rows, and of its columns as rows, in the order of the deltas."""
    config, at = hf.config, f"model.layers.{layer}."
    H, G, F = config.num_attention_heads, config.num_key_value_heads, config.intermediate_size
    K = getattr(config, "head_dim", None) or config.hidden_size // H
    if kind == "group":
        if hf.config.model_type == "phi3":
            fused = weights[at + "self_attn.qkv_proj.weight"]
            q, k, v = fused[: H * K], fused[H * K : (H + G) * K], fused[(H + G) * K :]
        else:
            q, k, v = (weights[f"{at}self_attn.{name}_proj.weight"] for name in "qkv")
        o = weights[at + "self_attn.o_proj.weight"]
        heads = slice(index * (H // G) * K, (index + 1) * (H // G) * K)
        shared = slice(index * K, (index + 1) * K)
        return [q[heads], k[shared], v[shared], o[:, heads].T]
    if hf.config.model_type == "phi3":
        fused = weights[at + "mlp.gate_up_proj.weight"]
        gate, up = fused[:F], fused[F:]
    else:
        gate, up = weights[at + "mlp.gate_proj.weight"], weights[at + "mlp.up_proj.weight"]
    down = weights[at + "mlp.down_proj.weight"]
    return [gate[index : index + 1], up[index : index + 1], down[:, index : index + 1].T]
