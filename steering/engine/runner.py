"""Runner: one forward over the packed tokens of a batch."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from steering.engine.memory import KvMemory, Pool
from steering.engine.scheduler import Batch
from steering.engine.sequence import Sequence
from steering.engine.table import SteeringTable
from steering.errors import first_line
from steering.model.attention import NAME, DecodeRows, PackedChunk, Step
from steering.model.experts import NAME as FIXED_EXPERTS
from steering.model.hooks import TapHooks, Taps
from steering.model.linears import Packing, pack_linears
from steering.model.loading import LanguageModel

if TYPE_CHECKING:  # registers operators, and needs more of torch than everybody has
    from steering.model.compiled import CompiledBase

log = logging.getLogger(__name__)

SPAN_BUCKET = 64
"""Decode rows attend over a multiple of this many positions."""


@dataclass(frozen=True)
class Forward:
    """What one forward leaves for the decode rows."""

    logits: Tensor
    """[n, V]"""
    early: dict[int, Tensor]
    """lens layer -> hidden states [n, D]; in deterministic mode those of the padding rows after them"""
    fixed_rows: bool
    """Deterministic mode: a matrix product takes all rows of `early`, whichever are wanted of it."""
    chunks: list[Tensor | None]
    """Per chunk of the batch: hidden states [length, D] after the final norm; None where one is not finite."""
    chunk_states: list[dict[int, Tensor]]
    """Per chunk: lens layer -> hidden states [length, D], of the layers that its request asks about."""


class Runner:
    """Owns the hooks of one model."""

    def __init__(
        self,
        model: LanguageModel,
        memory: KvMemory,
        *,
        packs: bool = False,
        rounded: torch.dtype | None = None,
        compiles: bool = False,
    ) -> None:
        """packs, rounded, compiles: as `fast_linears`, `rounded_linears` and `compile` of `EngineConfig`; deterministic
        mode does none of it."""
        layout, size = model.layout, memory.size
        self._layout, self._deterministic, self._padded_rows = layout, size.deterministic, size.padded_rows
        self._pools, self.device = memory.pools, model.device
        self._table = SteeringTable(layout, dtype=model.dtype, deterministic=size.deterministic)
        self._hf = model.hf
        self._attention_before = model.hf.config._attn_implementation
        model.hf.set_attn_implementation(NAME)
        self._experts_before = model.hf.config._experts_implementation
        if size.deterministic:
            model.hf.set_experts_implementation(FIXED_EXPERTS)  # nothing to a model without experts
        self._hooks = TapHooks(layout)
        free = not size.deterministic and model.quantized is None
        self.packing = pack_linears(model.hf, rounded) if packs and free else Packing()
        self.compiled = self._compile() if compiles and free else None

    def close(self) -> None:
        """Leaves the model as it was found."""
        self.packing.undo()
        self._hooks.remove()
        self._hf.set_attn_implementation(self._attention_before)
        if self._deterministic:
            self._hf.set_experts_implementation(self._experts_before)

    def forward(self, batch: Batch) -> Forward:
        """Runs the batch, corrections inside; K and V of every token are written to its slot."""
        n = len(batch.rows)
        num_rows = self._padded_rows if n and self._deterministic else n
        ids, positions, chunks = self._pack(batch, num_rows)
        taps = self._table.taps(batch, num_rows, len(ids))
        packed = torch.tensor([ids, positions], device=self.device)
        step = Step(self._decode_rows(batch, positions[:num_rows], packed[1]), chunks, taps, self.device)
        forward = self._eager if self.compiled is None or taps.weights else self.compiled  # whose linears have no hooks
        hidden = forward(packed, step)[0]
        # All padded rows go through the unembedding too: in deterministic mode shapes never change.
        logits = self._layout.unembed.normed_logits(hidden[:num_rows])[:n].to(self.device)
        early = {layer: h[:num_rows].to(self.device) for layer, h in taps.captured.items()}
        scored = _finite_or_none([hidden[c.first : c.first + c.length] for c in chunks])
        asked = [self._states(chunk.sequence, c, taps) for chunk, c in zip(batch.chunks, chunks, strict=True)]
        return Forward(logits, early, self._deterministic, scored, asked)

    def _states(self, sequence: Sequence, chunk: PackedChunk, taps: Taps) -> dict[int, Tensor]:
        query, where = sequence.lens_query, slice(chunk.first, chunk.first + chunk.length)
        layers = [lens.layer for lens in query.lenses] if query else []
        return {layer: taps.captured[layer][where].to(self.device) for layer in layers}

    @torch.inference_mode()
    def _compile(self) -> CompiledBase | None:
        """None, and a line in the log, where that fails or is no faster."""
        try:
            from steering.model.compiled import CompiledBase

            compiled = CompiledBase(self._hf, self._layout, self.device)
            speedups = compiled.speedups(self._eager)
        except Exception as error:  # a compiler, its cache and a tool chain: whatever they raise, eager runs
            log.warning("not compiled: %s: %s", type(error).__name__, first_line(error))
            return None
        faster = math.prod(speedups) > 1.0
        log.info("compiled: %s times as fast%s", speedups, "" if faster else ", so not used")
        return compiled if faster else None

    def _eager(self, packed: Tensor, step: Step) -> Tensor:
        """packed: [2, N] token ids and positions -> [1, N, D] after the final norm."""
        with self._hooks.scope(step.taps), self._kernels():
            hidden: Tensor = self._layout.base(
                input_ids=packed[:1], position_ids=packed[1:], use_cache=False, steer=step
            ).last_hidden_state
        return hidden

    def _kernels(self) -> AbstractContextManager[None]:
        """Deterministic mode keeps off fused attention, whose bits on the CPU depend on the thread a row falls to."""
        return sdpa_kernel(SDPBackend.MATH) if self._deterministic else nullcontext()

    def _pack(self, batch: Batch, num_rows: int) -> tuple[list[int], list[int], list[PackedChunk]]:
        """Token ids and positions of the packed tokens, and where each chunk stands among them."""
        padding = num_rows - len(batch.rows)
        ids = [s.next_token_id for s in batch.rows] + [0] * padding
        positions = [s.num_computed for s in batch.rows] + [0] * padding
        chunks = []
        for chunk in batch.chunks:
            sequence, end = chunk.sequence, chunk.start + chunk.length
            kv = self._pools[sequence.pool].kv
            chunks.append(PackedChunk(kv, sequence.slot, len(ids), chunk.start, chunk.length))
            ids += sequence.token_ids[chunk.start : end]
            positions += range(chunk.start, end)
        return ids, positions, chunks

    def _decode_rows(self, batch: Batch, positions: list[int], position_ids: Tensor) -> list[DecodeRows]:
        """Of each pool that has any; padding follows those of the one pool that deterministic mode has.

        positions: of the decode rows with padding; position_ids: the same as a tensor, and more.
        """
        groups, first = [], 0
        for index, pool in enumerate(self._pools):
            slots = [s.slot for s in batch.rows if s.pool == index]
            if not slots:
                continue
            if self._deterministic:
                slots += [pool.kv.slots - 1] * (len(positions) - len(slots))
            end = first + len(slots)
            here = position_ids[first:end]
            writes = torch.tensor(slots, device=self.device) * pool.kv.length + here
            groups.append(DecodeRows(pool.kv, first, here, writes, self._span(pool, positions[first:end])))
            first = end
        return groups

    def _span(self, pool: Pool, positions: list[int]) -> int:
        if self._deterministic:
            return pool.kv.length
        return min(pool.kv.length, -(-(max(positions) + 1) // SPAN_BUCKET) * SPAN_BUCKET)


def _finite_or_none(tensors: list[Tensor]) -> list[Tensor | None]:
    """With one device copy for all."""
    finite = torch.stack([t.isfinite().all() for t in tensors]).tolist() if tensors else []
    return [t if ok else None for t, ok in zip(tensors, finite, strict=True)]
