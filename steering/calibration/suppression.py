"""Suppression: how far the last blocks, and each of their heads, push down the right token where an answer is decided.

Late layers are known to lower what earlier ones were sure of (copy suppression: McDougall et al. 2023, arXiv
2310.04625; anti-overconfidence: Lad et al. 2024, arXiv 2406.19384). In a model that caves they may be what lowers
the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steering.calibration.patch_paths import unit_mask
from steering.evaluation.stats import Floats
from steering.model.layout import Layout
from steering.model.loading import LanguageModel
from steering.model.rerun import Replacement, Rerun, rerunning

TEXTS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Suppression:
    """Changes of log P(token) in nats, negative where it is suppressed; k blocks, n prompts."""

    blocks: tuple[int, ...]
    by_block: Floats
    """[k, n]: read after the block, minus before it, by the logit lens"""
    by_head: Floats
    """[k, H, n]: at the output, minus the same with the head silent (attn_z 0) and all later attn_z as they were"""

    def as_json(self) -> dict[str, Any]:
        """Means over the prompts."""
        return {
            "blocks": list(self.blocks),
            "by_block": self.by_block.mean(-1).tolist(),
            "by_head": self.by_head.mean(-1).tolist(),
        }


def suppression(
    model: LanguageModel, prompts: Sequence[Sequence[int]], tokens: Sequence[int], num_blocks: int = 3
) -> Suppression:
    """Of each prompt's own token, right after the prompt, in the last `num_blocks` blocks."""
    L = model.layout.num_layers
    blocks = tuple(range(max(0, L - num_blocks), L))
    by_block, by_head = list[Tensor](), list[Tensor]()
    for first in range(0, len(prompts), TEXTS_AT_ONCE):
        some = prompts[first : first + TEXTS_AT_ONCE]
        ids = torch.tensor(tokens[first : first + TEXTS_AT_ONCE], device=model.device)
        with rerunning(model, some, [1] * len(some), model.layout.num_heads) as rerun:
            read = {i: logprob(model.layout, rerun.hidden[i], ids) for i in range(blocks[0], L + 1)}
            by_block.append(torch.stack([read[i + 1] - read[i] for i in blocks]))
            by_head.append(torch.stack([read[L] - _silenced(model, rerun, i, ids) for i in blocks]))
    return Suppression(blocks, _array(by_block), _array(by_head))


def logprob(layout: Layout, states: Tensor, tokens: Tensor) -> Tensor:
    """[..., P, D] states before the final norm, [P] ids -> [..., P] log-probability of each text's token, in nats."""
    logprobs = layout.unembed.logits(states).float().log_softmax(-1)
    return logprobs.gather(-1, tokens.expand(states.shape[:-1])[..., None]).squeeze(-1)


def _silenced(model: LanguageModel, rerun: Rerun, block: int, tokens: Tensor) -> Tensor:
    """[H, P]: log P of the tokens with each head of the block silent."""
    heads = unit_mask(model.layout, "head", range(model.layout.num_heads))[:, None]
    silent = Replacement(heads, torch.zeros(1, 1, 1))
    states = rerun.final_states(block, {block: silent, **rerun.as_it_was(block)})
    return logprob(model.layout, states, tokens)


def _array(parts: Sequence[Tensor]) -> Floats:
    values: Floats = np.concatenate([part.double().cpu().numpy() for part in parts], axis=-1)
    return values
