"""Record: what the sites hold in whole texts, through the slot attention and the hooks that serve."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor

from steering.errors import ContextLengthExceeded
from steering.model.attention import NAME, PackedChunk, SlotKV, Step
from steering.model.hooks import TapHooks, Taps
from steering.model.loading import LanguageModel
from steering.site import Component

HEADS: tuple[Component, ...] = ("attn_z",)


class Recording(Taps):
    """Taps that correct nothing and keep what passes, for the packed tokens of several texts."""

    def __init__(self, lengths: Sequence[int], components: Collection[Component], device: torch.device) -> None:
        """device: where all that is kept goes; blocks may be on several."""
        super().__init__({})
        self.lengths, self._components, self._device = tuple(lengths), frozenset(components), device
        self.hidden: dict[int, Tensor] = {}
        """i, 0..L -> [N, D]: hidden_states[i], before the final norm"""
        self.attn_z: dict[int, Tensor] = {}
        """block, 0..L-1 -> [N, H*K], if asked for"""
        self.mlp_act: dict[int, Tensor] = {}
        """block, 0..L-1 -> [N, F], if asked for"""

    @property
    def ends(self) -> list[int]:
        """One past each text's last token, among the packed ones."""
        return list(accumulate(self.lengths))

    def apply(self, component: Component, layer: int, h: Tensor) -> Tensor:
        if component in self._components:
            (self.attn_z if component == "attn_z" else self.mlp_act)[layer] = h[0].to(self._device)
        return h

    def keep(self, layer: int, h: Tensor) -> None:
        self.hidden[layer] = h[0].to(self._device)


@torch.no_grad()
def record(
    model: LanguageModel, texts: Sequence[Sequence[int]], components: Collection[Component] = HEADS
) -> Recording:
    """One forward over all texts (token ids, none empty) side by side; memory grows with their sum.

    Hidden states are always kept; components: attn_z, mlp_act. Raises `ContextLengthExceeded` for a text beyond the
    model's context: its positions could change the others' too.
    """
    if (longest := max(map(len, texts))) > model.layout.context:
        raise ContextLengthExceeded(f"a text has {longest} tokens; the model's context is {model.layout.context}.")
    recording = Recording([len(text) for text in texts], components, model.device)
    positions = torch.cat([torch.arange(length) for length in recording.lengths]).to(model.device)
    ids = torch.tensor([i for text in texts for i in text], device=model.device)
    with _slot_attention(model) as hooks, hooks.scope(recording):
        model.layout.base(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, steer=_step(model, recording, positions)
        )
    return recording


@contextmanager
def _slot_attention(model: LanguageModel) -> Iterator[TapHooks]:
    """Own hooks for a while; those of an engine on the same model see no step of theirs and stay idle."""
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation(NAME)
    hooks = TapHooks(model.layout)
    try:
        yield hooks
    finally:
        hooks.remove()
        model.hf.set_attn_implementation(before)


def _step(model: LanguageModel, recording: Recording, positions: Tensor) -> Step:
    """A step of prefill chunks alone: each text a chunk in a slot of its own."""
    layout, lengths = model.layout, recording.lengths
    kv = SlotKV(
        slots=len(lengths),
        shape=(max(lengths), layout.num_groups, layout.head_dim),
        dtype=model.dtype,
        devices=layout.devices,
    )
    slots = torch.tensor([slot for slot, n in enumerate(lengths) for _ in range(n)], device=model.device)
    firsts = [end - length for end, length in zip(recording.ends, lengths, strict=True)]
    return Step(
        kv,
        writes=slots * kv.context + positions,
        positions=positions[:0],
        span=0,
        chunks=[PackedChunk(slot, first, 0, lengths[slot]) for slot, first in enumerate(firsts)],
        taps=recording,
    )
