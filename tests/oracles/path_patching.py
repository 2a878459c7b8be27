"""Path patching the slow way: one pair, one unit, one whole forward of the stock model at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def run(hf: PreTrainedModel, ids: Sequence[int], edits: dict[int, Callable[[Tensor], Tensor]]) -> tuple[list[Tensor], Tensor]:
    """(attn_z [T, H*K] of every layer as its o_proj received it, logits [V] at the end)."""
    seen: dict[int, Tensor] = {}

    def hook(layer: int) -> Callable[..., tuple[Tensor]]:
        def edit(module: object, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            z = args[0].clone()
            z[0] = edits[layer](z[0]) if layer in edits else z[0]
            seen[layer] = z[0]
            return (z,)

        return edit

    with ExitStack() as hooks:
        for layer, block in enumerate(hf.model.layers):
            handle = block.self_attn.o_proj.register_forward_pre_hook(hook(layer))
            hooks.callback(handle.remove)
        logits = hf(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
    return [seen[layer] for layer in range(len(seen))], logits


def score(logits: Tensor, claim: int, truth: int) -> float:
    return (logits[claim] - logits[truth]).item()


def patched_score(
    hf: PreTrainedModel, pair: tuple[Sequence[int], Sequence[int], int, int], heads: dict[int, list[int]], *, width: int, direct: bool
) -> float:
    """S of (A, B, claim, truth) with these heads (layer -> heads) of the last `width` positions from B.

    direct: attn_z of every layer above the lowest patched one is what it was in A, but for patched heads.
    """
    pressured, neutral, claim, truth = pair
    own, _ = run(hf, pressured, {})
    donor, _ = run(hf, neutral, {})
    K = own[0].shape[1] // hf.config.num_attention_heads

    def edit(layer: int) -> Callable[[Tensor], Tensor]:
        def replace(z: Tensor) -> Tensor:
            z = own[layer].clone() if direct and layer > min(heads) else z
            for head in heads.get(layer, []):
                features = slice(head * K, (head + 1) * K)
                z[-width:, features] = donor[layer][-width:, features]
            return z

        return replace

    _, logits = run(hf, pressured, {layer: edit(layer) for layer in range(min(heads), len(own))})
    return score(logits, claim, truth)
