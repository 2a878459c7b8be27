"""The plain model: its own code without slots or taps, where gradients are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from steering.model.loading import LanguageModel


@contextmanager
def plain_attention(model: LanguageModel) -> Iterator[None]:
    """The model's own attention for a while, in the one implementation that every family has whole (soft-cap)."""
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.hf.set_attn_implementation(before)


def plain_states(model: LanguageModel, texts: Sequence[Sequence[int]]) -> Tensor:
    """[B, T, D] after the final norm, with gradients where they are on. Under `plain_attention`. Texts are padded on
    the right, where no token of theirs looks."""
    longest = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=model.device)
    states: Tensor = model.layout.base(input_ids=ids, use_cache=False).last_hidden_state
    return states
