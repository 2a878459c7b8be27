"""Record: what the sites hold in whole texts, through the slot attention and the hooks that serve."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor

from steering.errors import ContextLengthExceeded
from steering.model.attention import NAME, PackedChunk, SlotKV, Step
from steering.model.hooks import TapHooks, Taps
from steering.model.loading import LanguageModel
from steering.site import Component, Site

HEADS: tuple[Component, ...] = ("attn_z",)


class Recording(Taps):
    """Taps that correct nothing and keep what passes, for the packed tokens of several texts."""

    def __init__(self, lengths: Sequence[int], components: Collection[Component], device: torch.device) -> None:
        """device: where all that is kept goes; blocks may be on several."""
        super().__init__({})
        self.lengths, self.device, self._components = tuple(lengths), device, frozenset(components)
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
            (self.attn_z if component == "attn_z" else self.mlp_act)[layer] = h[0].to(self.device)
        return h

    def keep(self, layer: int, h: Tensor) -> None:
        self.hidden[layer] = h[0].to(self.device)


class RowRecording(Recording):
    """Keeps some positions alone, and sites of some blocks: the rest is freed block by block. N counts what is kept."""

    def __init__(
        self, lengths: Sequence[int], rows: Sequence[int], kept: Collection[Site], device: torch.device
    ) -> None:
        """rows: among the packed tokens."""
        super().__init__(lengths, {site.component for site in kept}, device)
        self._rows, self._sites = torch.tensor(rows, dtype=torch.long), frozenset(kept)

    def apply(self, component: Component, layer: int, h: Tensor) -> Tensor:
        if component != "resid_post" and Site(component, layer) in self._sites:
            super().apply(component, layer, self._only(h))
        return h

    def keep(self, layer: int, h: Tensor) -> None:
        if layer and Site("resid_post", layer - 1) in self._sites:
            super().keep(layer, self._only(h))

    def _only(self, h: Tensor) -> Tensor:
        return h[:, self._rows.to(h.device)]


@torch.no_grad()
def record(
    model: LanguageModel, texts: Sequence[Sequence[int]], components: Collection[Component] = HEADS
) -> Recording:
    """One forward over all texts (token ids, none empty) side by side; memory grows with their sum.

    Hidden states are always kept; components: attn_z, mlp_act. Raises `ContextLengthExceeded` for a text beyond the
    model's context: its positions could change the others' too.
    """
    recording = Recording([len(text) for text in texts], components, model.device)
    with slot_hooks(model) as hooks:
        read_texts(model, texts, hooks, recording)
    return recording


@torch.no_grad()
def record_rows(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    kept: Collection[Site],
    device: torch.device | None = None,
) -> RowRecording:
    """What these sites hold at these positions, from 0, of each text; resid_post.i is hidden[i + 1].

    A forward holds what one block needs for all texts, and what is kept. device: where it is kept, the model's if None.
    """
    lengths = [len(text) for text in texts]
    starts = [0, *accumulate(lengths)]
    rows = [start + i for start, wanted in zip(starts, positions, strict=False) for i in wanted]
    recording = RowRecording(lengths, rows, kept, device or model.device)
    with slot_hooks(model) as hooks:
        read_texts(model, texts, hooks, recording)
    return recording


def read_texts(
    model: LanguageModel, texts: Sequence[Sequence[int]], hooks: TapHooks, taps: Taps, *, spare_slots: int = 0
) -> SlotKV:
    """The forward of `record`, with any taps; text i leaves its keys and values in slot i."""
    lengths = [len(text) for text in texts]
    if (longest := max(lengths)) > model.layout.context:
        raise ContextLengthExceeded(f"a text has {longest} tokens; the model's context is {model.layout.context}.")
    layout = model.layout
    kv = SlotKV(
        slots=len(texts) + spare_slots,
        shape=(longest, layout.num_groups, layout.head_dim),
        dtype=model.dtype,
        devices=layout.devices,
    )
    positions = torch.cat([torch.arange(length) for length in lengths]).to(model.device)
    ids = torch.tensor([i for text in texts for i in text], device=model.device)
    step = chunks_step(kv, dict(enumerate([(0, length) for length in lengths])), taps, model.device)
    with hooks.scope(taps):
        layout.base(input_ids=ids[None], position_ids=positions[None], use_cache=False, steer=step)
    return kv


@contextmanager
def slot_hooks(model: LanguageModel) -> Iterator[TapHooks]:
    """Slot attention and hooks for a while; those of an engine on the same model see no step of theirs, stay idle."""
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation(NAME)
    hooks = TapHooks(model.layout)
    try:
        yield hooks
    finally:
        hooks.remove()
        model.hf.set_attn_implementation(before)


def chunks_step(kv: SlotKV, spans: Mapping[int, tuple[int, int]], taps: Taps, device: torch.device) -> Step:
    """A step of prefill chunks alone; spans: slot -> (first position, length), in the order they are packed."""
    lengths = [length for _, length in spans.values()]
    firsts = [end - length for end, length in zip(accumulate(lengths), lengths, strict=True)]
    chunks = [
        PackedChunk(kv, slot, first, start, length)
        for first, (slot, (start, length)) in zip(firsts, spans.items(), strict=True)
    ]
    return Step((), chunks, taps, device)
