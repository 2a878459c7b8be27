"""Path patching the slow way: one pair, one unit, one whole forward of the stock model at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def run(
    hf: PreTrainedModel, ids: Sequence[int], edits: dict[int, Callable[[Tensor], Tensor]]
) -> tuple[list[Tensor], Tensor]:
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


class Naive:
    """One pair: (A, B, claim, truth)."""

    def __init__(self, hf: PreTrainedModel, pressured: Sequence[int], neutral: Sequence[int], sides: tuple[int, int]):
        self.hf, self.pressured, self.sides = hf, pressured, sides
        self.own, logits = run(hf, pressured, {})
        self.donor, neutral_logits = run(hf, neutral, {})
        self.score, self.neutral_score = self._score(logits), self._score(neutral_logits)
        self.head_dim = self.own[0].shape[1] // hf.config.num_attention_heads

    def patched(self, layer: int, heads: Sequence[int], *, width: int, direct: bool, share: float = 1.0) -> float:
        """S with these heads of one layer from B in the last `width` positions, a `share` of the way from A to B;
        direct: attn_z of all later layers as in A."""

        def patch(z: Tensor) -> Tensor:
            for head in heads:
                features = slice(head * self.head_dim, (head + 1) * self.head_dim)
                change = self.donor[layer][-width:, features] - z[-width:, features]
                z[-width:, features] += share * change
            return z

        edits: dict[int, Callable[[Tensor], Tensor]] = {layer: patch}
        if direct:
            for later in range(layer + 1, len(self.own)):
                edits[later] = lambda z, later=later: self.own[later]
        return self._score(run(self.hf, self.pressured, edits)[1])

    def silenced(self, layer: int, head: int) -> Tensor:
        """Logits [V] with a head of the last position 0, all later attn_z as in A."""
        features = slice(head * self.head_dim, (head + 1) * self.head_dim)

        def silence(z: Tensor) -> Tensor:
            z[-1, features] = 0
            return z

        edits: dict[int, Callable[[Tensor], Tensor]] = {layer: silence}
        for later in range(layer + 1, len(self.own)):
            edits[later] = lambda z, later=later: self.own[later]
        return run(self.hf, self.pressured, edits)[1]

    def _score(self, logits: Tensor) -> float:
        claim, truth = self.sides
        return (logits[claim] - logits[truth]).item()
