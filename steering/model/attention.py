"""Slot attention: one function in place of a model's attention, for packed decode rows and prefill chunks.

Tokens of a step travel as one sequence [1, N]: first the decode rows (row r owns KV slot r, one token each), then the
prefill chunks (one slot each, consecutive positions). Keys and values live in preallocated slots, so a row costs no
copy when others come and go. Registered with `AttentionInterface` and *not* as a mask function: transformers then
builds no mask at all, and causality is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from steering.model.hooks import Taps

NAME = "unsway_slots"


class SlotKV:
    """Keys and values of all rows, per layer [slots, T, G, K]; the last slot is scratch for padding rows."""

    def __init__(
        self, *, slots: int, shape: tuple[int, int, int], dtype: torch.dtype, devices: Sequence[torch.device]
    ) -> None:
        """shape: (T, G, K); devices: one per layer, where its block is."""
        size = (slots + 1, *shape)
        self.keys = [torch.zeros(size, dtype=dtype, device=device) for device in devices]
        self.values = [torch.zeros(size, dtype=dtype, device=device) for device in devices]
        self.scratch = slots
        self.context = shape[0]

    @property
    def nbytes(self) -> int:
        return 2 * len(self.keys) * self.keys[0].nbytes

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` positions of one slot over another."""
        for cache in (*self.keys, *self.values):
            cache[target, :length] = cache[source, :length]

    def clear(self, slot: int) -> None:
        """Zeroes a slot: a NaN left behind would leak through masked positions (0 * NaN)."""
        for cache in (*self.keys, *self.values):
            cache[slot].zero_()


@dataclass(frozen=True)
class PackedChunk:
    """Consecutive prompt positions of one sequence inside a step."""

    slot: int
    first: int
    """Index of its first token in the packed step."""
    start: int
    """Position of that token in its sequence."""
    length: int


class Step:
    """What attention and taps need to know about one forward; built by the runner, alive for that forward only."""

    def __init__(
        self,
        kv: SlotKV,
        *,
        writes: Tensor,
        positions: Tensor,
        span: int,
        chunks: list[PackedChunk],
        taps: Taps,
    ) -> None:
        """writes: [N] flat KV index (slot * T + position) of each token; positions: [n] of the decode rows;
        span: how many KV positions decode rows look at."""
        self.kv, self.writes, self.positions, self.span, self.chunks = kv, writes, positions, span, chunks
        self.taps = taps
        self._decode_masks: dict[int | None, Tensor] = {}
        self._chunk_masks: dict[tuple[PackedChunk, int | None], Tensor] = {}
        self._elsewhere: dict[torch.device, Step] = {}

    def on(self, device: torch.device) -> Step:
        """The same step with its indices on the device of a block; copied once per device."""
        if device == self.positions.device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = Step(
                self.kv,
                writes=self.writes.to(device),
                positions=self.positions.to(device),
                span=self.span,
                chunks=self.chunks,
                taps=self.taps,
            )
        return self._elsewhere[device]

    @property
    def num_decode(self) -> int:
        return self.positions.shape[0]

    def decode_mask(self, window: int | None) -> Tensor:
        """[n, 1, 1, span] additive mask of the decode rows; built once per step and window."""
        if window not in self._decode_masks:
            keys = torch.arange(self.span, device=self.positions.device)
            self._decode_masks[window] = self._additive(keys, self.positions[:, None], window)[:, None, None]
        return self._decode_masks[window]

    def chunk_mask(self, chunk: PackedChunk, window: int | None) -> Tensor:
        """[length, start + length] additive causal mask of a chunk."""
        if (chunk, window) not in self._chunk_masks:
            keys = torch.arange(chunk.start + chunk.length, device=self.positions.device)
            self._chunk_masks[chunk, window] = self._additive(keys, keys[chunk.start :, None], window)
        return self._chunk_masks[chunk, window]

    def _additive(self, keys: Tensor, queries: Tensor, window: int | None) -> Tensor:
        visible = keys <= queries
        if window is not None:
            visible = visible & (keys > queries - window)
        zero = torch.zeros((), dtype=self.kv.keys[0].dtype, device=keys.device)
        return torch.where(visible, zero, float("-inf"))


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
    H, N, K = query.shape[1:]
    G = key.shape[1]
    steer = steer.on(query.device)
    keys, values = steer.kv.keys[layer], steer.kv.values[layer]
    keys.view(-1, G, K).index_copy_(0, steer.writes, key[0].transpose(0, 1))
    values.view(-1, G, K).index_copy_(0, steer.writes, value[0].transpose(0, 1))
    q = query[0].transpose(0, 1)  # [N, H, K]
    parts = []
    if n := steer.num_decode:
        # GQA packed on the query axis: the H/G queries of a group share its keys without a copy.
        z = _attend(
            q[:n].reshape(n, G, H // G, K),
            (keys[:n, : steer.span].transpose(1, 2), values[:n, : steer.span].transpose(1, 2)),
            steer.decode_mask(sliding_window),
            scaling=scaling,
            softcap=softcap,
        )
        parts.append(z.reshape(n, H, K))
    for chunk in steer.chunks:
        first, end = chunk.first, chunk.start + chunk.length
        z = _attend(
            q[first : first + chunk.length].transpose(0, 1)[None],
            (keys[chunk.slot, :end].transpose(0, 1)[None], values[chunk.slot, :end].transpose(0, 1)[None]),
            steer.chunk_mask(chunk, sliding_window),
            scaling=scaling,
            softcap=softcap,
        )
        parts.append(z[0].transpose(0, 1))
    z = (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(1, N, H * K)
    return steer.taps.apply("attn_z", layer, z).view(1, N, H, K), None


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
