"""Engine config: sizes and modes fixed at start, and what memory they ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from steering.engine.kv_size import KvSize
from steering.engine.memory import KvMemory
from steering.model.attention import SlotKV
from steering.model.loading import LanguageModel

LEAST_CONTEXT = 256
"""Positions that a budget must leave a row where no context is asked for."""
USUAL_CONTEXT = 4096
"""Positions of a row that the memory is made for where none is given."""
CACHE_SHARE = 4
"""The prefix cache may take one part in so many of the memory, unless told."""


@dataclass(frozen=True)
class EngineConfig:
    """Sizes fixed at start."""

    max_rows: int = 16
    """Requests that decode at the same time."""
    context: int | None = None
    """Most positions of a prompt and its answer; None: the model's own, as far as the memory holds one such row (in
    deterministic mode, where every row takes as much from the start, at most 4096)."""
    prefill_tokens: int = 512
    """Prompt tokens per step, over all requests."""
    prefill_stretch: float = 0.0
    """Beside rows that decode only so many of them that the step lasts about this many times as long as one without
    (`steering.engine.pace`), above 1; 0: all, which is fastest over all requests. Deterministic mode does not ask."""
    kv_memory: int | None = None
    """Bytes that keys and values may take, the prefix cache among them; they are taken as they are needed. None: what
    `max_rows` rows of `context`, at most 4096, positions take, and what `prefix_cache` says. A context that is not
    given is reduced to fit, and in deterministic mode, which takes all at the start, before it the rows."""
    prefix_cache: int | None = None
    """Bytes of these that beginnings computed before may take, until rows need them; None: a quarter; 0: none are kept.
    Deterministic mode keeps none."""
    queue: int = 256
    """Requests that may wait for a row; one more is refused."""
    deterministic: bool = False
    """Fixed shapes: a row's bits do not depend on what else is in the batch. Slower."""
    fast_linears: bool = False
    """On the CPU, hold weights a second time in the layout that multiplies a few rows faster, where that measures so
    and memory is at hand. Deterministic mode does not."""
    rounded_linears: torch.dtype | None = None
    """With `fast_linears`: a type of fewer bits that the second copies may have, where that measures faster still."""
    compile: bool = False
    """Compile the model at the start, minutes where torch's cache has nothing of it, and use that where it measures
    faster. Deterministic mode does not."""

    def __post_init__(self) -> None:
        for name in ("max_rows", "prefill_tokens", "queue"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.prefill_stretch != 0 and not 1 < self.prefill_stretch < float("inf"):
            raise ValueError(f"prefill_stretch must be 0 or above 1, got {self.prefill_stretch}")
        if self.context is not None and self.context < 2:
            raise ValueError(f"context must be at least 2, got {self.context}")
        if self.prefix_cache is not None and self.prefix_cache < 0:
            raise ValueError(f"prefix_cache must be at least 0, got {self.prefix_cache}")


def wanted_kv_size(model: LanguageModel, config: EngineConfig) -> KvSize:
    """What is wanted, and what of memory there is for it."""
    own, usual = model.layout.context, min(USUAL_CONTEXT, model.layout.context)
    size = KvSize(
        rows=config.max_rows,
        context=min(config.context or (usual if config.deterministic else own), own),
        bytes_per_token=model.layout.kv_bytes_per_token(model.dtype),
        deterministic=config.deterministic,
        budget=config.kv_memory or 0,
    )
    if config.kv_memory is not None:
        return size
    common = size.rows * min(size.context, usual) * size.bytes_per_token
    rows = max(common, size.least if config.context or config.deterministic else 0)
    return replace(size, budget=rows + (config.prefix_cache or 0))


def make_kv_memory(model: LanguageModel, size: KvSize, config: EngineConfig) -> KvMemory:
    layout = model.layout

    def make(slots: int, length: int) -> SlotKV:
        shape = length, layout.num_groups, layout.head_dim
        return SlotKV(slots=slots, shape=shape, dtype=model.dtype, devices=layout.devices)

    limit = size.budget // CACHE_SHARE if config.prefix_cache is None else config.prefix_cache
    return KvMemory(size, make, cache_limit=0 if size.deterministic else limit)
