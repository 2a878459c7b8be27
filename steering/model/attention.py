"""Slot attention: one function in place of a model's attention, for packed decode rows and prefill chunks.

Tokens of a step travel as one sequence [1, N]: first the decode rows, one token each, pool by pool (row r of a pool
owns its slot r), then the prefill chunks (one slot each, consecutive positions). Decode rows look at a dense view of
their pool, so a row costs no copy when others come and go. Registered with `AttentionInterface` and *not* as a mask
function: transformers then builds no mask at all, and causality is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from steering.model.hooks import Taps

NAME = "unsway_slots"


class SlotKV:
    """Keys and values of the rows of one pool, per layer [slots, T, G, K]. What nothing was written to is zero."""

    def __init__(
        self, *, slots: int, shape: tuple[int, int, int], dtype: torch.dtype, devices: Sequence[torch.device]
    ) -> None:
        """shape: (T, G, K); devices: one per layer, where its block is."""
        self._size = (slots, *shape)
        self.keys = [torch.zeros(self._size, dtype=dtype, device=device) for device in devices]
        self.values = [torch.zeros(self._size, dtype=dtype, device=device) for device in devices]

    @property
    def slots(self) -> int:
        return self._size[0]

    @property
    def length(self) -> int:
        """T, positions of a slot."""
        return self._size[1]

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in (*self.keys, *self.values))

    def resize(self, slots: int) -> None:
        """More slots, or only the first ones. Layer by layer: what is there twice at a time is one layer's keys.

        Where memory runs out midway, the layers already done are larger than told, and all is as usable as before.
        """
        size = (slots, *self._size[1:])
        for caches in (self.keys, self.values):
            for layer, old in enumerate(caches):
                kept = min(slots, old.shape[0])
                caches[layer] = torch.zeros(size, dtype=old.dtype, device=old.device)
                caches[layer][:kept] = old[:kept]
        self._size = size

    def copy(self, source: int, to: SlotKV, target: int, length: int) -> None:
        """The first `length` positions of a slot over those of another, of this pool or a longer one."""
        for old, new in zip((*self.keys, *self.values), (*to.keys, *to.values), strict=True):
            new[target, :length] = old[source, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchanges the first `length` positions of two slots."""
        for cache in (*self.keys, *self.values):
            kept = cache[one, :length].clone()
            cache[one, :length] = cache[other, :length]
            cache[other, :length] = kept

    def clear(self, slot: int) -> None:
        """Zeroes a slot: a NaN left behind would leak through masked positions (0 * NaN)."""
        for cache in (*self.keys, *self.values):
            cache[slot].zero_()

    def read(self, slot: int, start: int, end: int) -> tuple[Tensor, ...] | None:
        """Copies of positions start .. end - 1, [2, end - start, G, K] per layer; None if one is not finite."""
        pairs = zip(self.keys, self.values, strict=True)
        block = tuple(torch.stack((keys[slot, start:end], values[slot, start:end])) for keys, values in pairs)
        finite = torch.stack([layer.isfinite().all().to(block[0].device) for layer in block])
        return block if finite.all() else None  # one copy from the device, and not one for each layer

    def write(self, slot: int, start: int, block: tuple[Tensor, ...]) -> None:
        """What `read` gave, from position `start` on."""
        for keys, values, layer in zip(self.keys, self.values, block, strict=True):
            end = start + layer.shape[1]
            keys[slot, start:end], values[slot, start:end] = layer[0], layer[1]


@dataclass(frozen=True, eq=False)
class DecodeRows:
    """One token each of the first rows of a pool; row r reads slot r."""

    kv: SlotKV
    first: int
    """Index of the first one's token in the packed step."""
    positions: Tensor
    """[n] of those tokens in their sequences"""
    writes: Tensor
    """[n] where their keys and values go: slot * T + position"""
    span: int
    """How many positions they look at."""

    @property
    def count(self) -> int:
        return self.positions.shape[0]


@dataclass(frozen=True)
class PackedChunk:
    """Consecutive positions of one sequence inside a step."""

    kv: SlotKV
    slot: int
    first: int
    """Index of its first token in the packed step."""
    start: int
    """Position of that token in its sequence."""
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


class Step:
    """What attention and taps need to know about one forward; built by the runner, alive for that forward only."""

    def __init__(
        self, rows: Sequence[DecodeRows], chunks: Sequence[PackedChunk], taps: Taps, device: torch.device
    ) -> None:
        """In the order they are packed, rows first; device: where the tensors of `rows` are."""
        self.rows, self.chunks, self.taps, self._device = rows, chunks, taps, device
        self._masks: dict[tuple[object, ...], Tensor] = {}
        self._elsewhere: dict[torch.device, Step] = {}

    def on(self, device: torch.device) -> Step:
        """The same step with its indices on the device of a block; copied once per device."""
        if device == self._device:
            return self
        if device not in self._elsewhere:
            rows = [
                replace(group, positions=group.positions.to(device), writes=group.writes.to(device))
                for group in self.rows
            ]
            self._elsewhere[device] = Step(rows, self.chunks, self.taps, device)
        return self._elsewhere[device]

    def decode_mask(self, rows: DecodeRows, window: int | None, dtype: torch.dtype) -> Tensor:
        """[n, 1, 1, span] additive mask of a pool's decode rows; built once per step and window."""
        if (rows, window) not in self._masks:
            keys = torch.arange(rows.span, device=self._device)
            self._masks[rows, window] = _additive(keys, rows.positions[:, None], window, dtype)[:, None, None]
        return self._masks[rows, window]

    def chunk_mask(self, chunk: PackedChunk, window: int | None, dtype: torch.dtype) -> Tensor:
        """[length, start + length] additive causal mask of a chunk."""
        place = chunk.start, chunk.length, window
        if place not in self._masks:
            keys = torch.arange(chunk.end, device=self._device)
            self._masks[place] = _additive(keys, keys[chunk.start :, None], window, dtype)
        return self._masks[place]


def _additive(keys: Tensor, queries: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    visible = keys <= queries
    if window is not None:
        visible = visible & (keys > queries - window)
    return torch.where(visible, torch.zeros((), dtype=dtype, device=keys.device), float("-inf"))


def slot_attention(  # noqa: PLR0913 - the signature is that of AttentionInterface
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    steer: Step,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query [1, H, N, K], key and value [1, G, N, K] -> z [1, N, H, K], corrected at the site attn_z."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    z = attend_slots(steer, layer, (query, key, value), scaling=scaling, window=sliding_window, softcap=softcap)
    return z, None


def attend_slots(
    step: Step,
    layer: int,
    qkv: tuple[Tensor, Tensor, Tensor],
    *,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """query [1, H, N, K], key and value [1, G, N, K] of one block -> z [1, N, H, K], as `slot_attention`."""
    query, key, value = qkv
    H, N, K = query.shape[1:]
    G = key.shape[1]
    step = step.on(query.device)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [N, H or G, K]
    # All writes before any read: where gradients are kept, what was read may not be written to any more.
    for rows in step.rows:
        here = slice(rows.first, rows.first + rows.count)
        rows.kv.keys[layer].view(-1, G, K).index_copy_(0, rows.writes, k[here])
        rows.kv.values[layer].view(-1, G, K).index_copy_(0, rows.writes, v[here])
    for chunk in step.chunks:
        here, there = slice(chunk.first, chunk.first + chunk.length), slice(chunk.start, chunk.end)
        chunk.kv.keys[layer][chunk.slot, there], chunk.kv.values[layer][chunk.slot, there] = k[here], v[here]
    parts = []
    for rows in step.rows:
        keys, values, n = rows.kv.keys[layer], rows.kv.values[layer], rows.count
        # GQA packed on the query axis: the H/G queries of a group share its keys without a copy.
        z = _attend(
            q[rows.first : rows.first + n].reshape(n, G, H // G, K),
            (keys[:n, : rows.span].transpose(1, 2), values[:n, : rows.span].transpose(1, 2)),
            step.decode_mask(rows, window, keys.dtype),
            scaling=scaling,
            softcap=softcap,
        )
        parts.append(z.reshape(n, H, K))
    for chunk in step.chunks:
        keys, values = chunk.kv.keys[layer][chunk.slot, : chunk.end], chunk.kv.values[layer][chunk.slot, : chunk.end]
        z = _attend(
            q[chunk.first : chunk.first + chunk.length].transpose(0, 1)[None],
            (keys.transpose(0, 1)[None], values.transpose(0, 1)[None]),
            step.chunk_mask(chunk, window, keys.dtype),
            scaling=scaling,
            softcap=softcap,
        )
        parts.append(z[0].transpose(0, 1))
    z = (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(1, N, H * K)
    return step.taps.apply("attn_z", layer, z).view(1, N, H, K)


def _attend(q: Tensor, kv: tuple[Tensor, Tensor], mask: Tensor, *, scaling: float, softcap: float | None) -> Tensor:
    """q [B, H, M, K], keys and values [B, G, S, K], additive mask that broadcasts to [B, H, M, S] -> [B, H, M, K]."""
    keys, values = kv
    (B, H, M, _), (G, S) = q.shape, keys.shape[1:3]
    if softcap is None:
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scaling, enable_gqa=H != G)
    # Fused kernels know no soft-cap. Step by step as in Gemma-2's own code, so that bfloat16 rounds alike.
    scores = (q.reshape(B, G, -1, q.shape[-1]) @ keys.transpose(-1, -2)).view(B, H, M, S) * scaling
    scores = torch.tanh(scores / softcap) * softcap + mask
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    return (weights.view(B, G, -1, S) @ values).view(q.shape)


AttentionInterface.register(NAME, slot_attention)
