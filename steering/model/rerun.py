"""Rerun: the ends of texts, run again from any block on with parts of attn_z replaced, many copies side by side.

A text is read once; each of its copies has a slot with its keys and values. A run from block i starts at the kept input
of that block and writes the keys and values of the ends anew in the blocks i and above, so that it reads nothing of the
runs before it. Blocks are called with the arguments that the model itself gave them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from steering.model.attention import DecodeRows, SlotKV, Step
from steering.model.hooks import TapHooks, Taps
from steering.model.loading import LanguageModel
from steering.model.record import HEADS, Recording, chunks_step, read_texts, slot_hooks
from steering.site import Component


@dataclass(frozen=True)
class Replacement:
    """What attn_z of a block becomes: `values` where `mask`. Both broadcast to [copies, M, H*K]."""

    mask: Tensor
    values: Tensor


class _Replacing(Taps):
    def __init__(self, replacements: Mapping[int, Replacement], copies: int) -> None:
        super().__init__({})
        self._replacements, self._copies = replacements, copies

    def apply(self, component: Component, layer: int, h: Tensor) -> Tensor:
        new = self._replacements.get(layer) if component == "attn_z" else None
        if new is None:
            return h
        old = h.view(self._copies, -1, h.shape[-1])
        return torch.where(new.mask.to(h.device), new.values.to(h.device, h.dtype), old).view(h.shape)


class Rerun:
    """Made by `rerunning`. M: the end positions of all texts together, text by text."""

    def __init__(
        self, model: LanguageModel, hooks: TapHooks, texts: Sequence[Sequence[int]], widths: Sequence[int], copies: int
    ) -> None:
        self._model, self._texts, self._widths, self._copies = model, texts, widths, copies
        self._kv = read_texts(model, texts, hooks, Taps({}), spare_slots=len(texts) * (copies - 1))
        _repeat_slots(self._kv, len(texts), copies)
        kept, self._arguments = self._note(hooks)
        M = sum(widths)
        self.hidden = [kept.hidden[i][:M] for i in range(model.layout.num_layers + 1)]
        """[M, D] each: hidden_states[0..L], before the final norm"""
        self.attn_z = [kept.attn_z[i][:M] for i in range(model.layout.num_layers)]
        """[M, H*K] each"""

    @property
    def last(self) -> Tensor:
        """[P] index of each text's last position among the M."""
        return torch.tensor(list(accumulate(self._widths)), device=self._model.device) - 1

    def as_it_was(self, above: int) -> dict[int, Replacement]:
        """attn_z of all blocks above one, kept to what it was."""
        everything = torch.ones(1, 1, 1, dtype=torch.bool)
        return {i: Replacement(everything, self.attn_z[i]) for i in range(above + 1, len(self.attn_z))}

    @torch.inference_mode()
    def final_states(self, block: int, replacements: Mapping[int, Replacement]) -> Tensor:
        """[copies, P, D]: what the last block puts out where each text ends, run again from `block` on.

        replacements: by block; those below `block` would never be seen.
        """
        step = self._step(_Replacing(replacements, self._copies))
        h = self.hidden[block].repeat(self._copies, 1)[None]
        for layer in range(block, self._model.layout.num_layers):
            h = self._model.layout.blocks[layer](h, steer=step, **self._arguments[layer])
        return h[0].view(self._copies, -1, h.shape[-1])[:, self.last.to(h.device)].to(self._model.device)

    def _note(self, hooks: TapHooks) -> tuple[Recording, dict[int, dict[str, Any]]]:
        """One plain run of the ends: what the sites hold, and the arguments of each block."""
        arguments: dict[int, dict[str, Any]] = {}
        kept = Recording([w for _ in range(self._copies) for w in self._widths], HEADS, self._model.device)
        ends = [(text[-w:], range(len(text) - w, len(text))) for text, w in zip(self._texts, self._widths, strict=True)]
        ids = torch.tensor([i for end, _ in ends for i in end] * self._copies, device=self._model.device)
        positions = torch.tensor([p for _, at in ends for p in at] * self._copies, device=self._model.device)

        def note(layer: int) -> Any:
            def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
                arguments[layer] = {name: value for name, value in kwargs.items() if name != "steer"}

            return hook

        blocks = self._model.layout.blocks
        noting = [block.register_forward_pre_hook(note(i), with_kwargs=True) for i, block in enumerate(blocks)]
        try:
            with hooks.scope(kept):
                self._model.layout.base(
                    input_ids=ids[None], position_ids=positions[None], use_cache=False, steer=self._step(kept)
                )
        finally:
            for handle in noting:
                handle.remove()
        return kept, arguments

    def _step(self, taps: Taps) -> Step:
        lengths = [len(text) for text in self._texts] * self._copies
        widths, device = [*self._widths] * self._copies, self._model.device
        if set(widths) == {1}:  # as decode rows they need no loop over texts
            positions = torch.tensor(lengths, device=device) - 1
            writes = torch.arange(len(lengths), device=device) * self._kv.length + positions
            return Step([DecodeRows(self._kv, 0, positions, writes, self._kv.length)], (), taps, device)
        spans = {slot: (length - w, w) for slot, (length, w) in enumerate(zip(lengths, widths, strict=True))}
        return chunks_step(self._kv, spans, taps, device)


@contextmanager
def rerunning(
    model: LanguageModel, texts: Sequence[Sequence[int]], widths: Sequence[int], copies: int
) -> Iterator[Rerun]:
    """Reads the texts; widths: how many of each one's last positions are run again; copies: runs side by side.

    Memory: keys and values of `copies` times the texts, each as long as the longest. Raises `ContextLengthExceeded`.
    """
    with slot_hooks(model) as hooks, torch.inference_mode():
        yield Rerun(model, hooks, texts, widths, copies)


def _repeat_slots(kv: SlotKV, num_texts: int, copies: int) -> None:
    for cache in (*kv.keys, *kv.values):
        own = cache[:num_texts]
        cache[num_texts : num_texts * copies].view(copies - 1, *own.shape).copy_(own)
