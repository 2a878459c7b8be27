"""How much memory keys and values of a model are to have, and that memory itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from steering.engine.kv_size import KvSize
from steering.engine.memory import KvMemory
from steering.model.attention import SlotKV
from steering.model.loading import LanguageModel

if TYPE_CHECKING:
    from steering.engine.engine import EngineConfig

LEAST_CONTEXT = 256
"""Positions that a budget must leave a row where no context is asked for."""
USUAL_CONTEXT = 4096
"""Positions of a row that the memory is made for where none is given."""
CACHE_SHARE = 4
"""The prefix cache may take one part in so many of the memory, unless told."""


def wanted_size(model: LanguageModel, config: EngineConfig) -> KvSize:
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


def make_memory(model: LanguageModel, size: KvSize, config: EngineConfig) -> KvMemory:
    layout = model.layout

    def make(slots: int, length: int) -> SlotKV:
        shape = length, layout.num_groups, layout.head_dim
        return SlotKV(slots=slots, shape=shape, dtype=model.dtype, devices=layout.devices)

    limit = size.budget // CACHE_SHARE if config.prefix_cache is None else config.prefix_cache
    return KvMemory(size, make, cache_limit=0 if size.deterministic else limit)
