"""Gradients at attn_z: one backward pass over texts side by side, through the attention and the hooks that serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from steering.model.loading import LanguageModel
from steering.model.record import HEADS, Recording, read_texts, slot_hooks
from steering.site import Component

Objective = Callable[[Recording], Tensor]
"""What a forward recorded -> the scalar to differentiate."""


class _Differentiable(Recording):
    """Keeps attn_z as the variables to differentiate by; cut off, what later attention reads of them stays fixed."""

    def __init__(self, lengths: Sequence[int], device: torch.device, *, through_attention: bool) -> None:
        super().__init__(lengths, HEADS, device)
        self._through_attention = through_attention

    def apply(self, component: Component, layer: int, h: Tensor) -> Tensor:
        if component != "attn_z":
            return h
        if not (self._through_attention and h.requires_grad):
            h = h.detach().requires_grad_()
        self.attn_z[layer] = h
        return h


def record_gradients(
    model: LanguageModel, texts: Sequence[Sequence[int]], objective: Objective, *, through_attention: bool
) -> tuple[Recording, dict[int, Tensor]]:
    """(what was recorded, block -> gradient of the objective by attn_z [N, H*K]).

    through_attention: later attention counts with what it makes of a change; else every later attn_z stays as it was.
    """
    recording = _Differentiable([len(text) for text in texts], model.device, through_attention=through_attention)
    with torch.enable_grad(), slot_hooks(model) as hooks:
        read_texts(model, texts, hooks, recording)
        blocks = sorted(recording.attn_z)
        gradients = torch.autograd.grad(objective(recording), [recording.attn_z[block] for block in blocks])
    for block in blocks:
        recording.attn_z[block] = recording.attn_z[block].detach()[0].to(model.device)
    recording.hidden = {i: h.detach() for i, h in recording.hidden.items()}
    return recording, {block: g[0].to(model.device) for block, g in zip(blocks, gradients, strict=True)}
