"""About how much memory an evaluation of a model takes, before one starts."""

from __future__ import annotations

from steering.engine.config import EngineConfig, wanted_kv_size
from steering.model.loading import LanguageModel

OF_A_PROCESS = 1 << 30
"""Bytes of the interpreter, of libraries and of what is small."""
CHAT_TOKENS = 1024
"""Of a question with its answers, about the most that is usual."""


def memory_needed(model: LanguageModel, *, deterministic: bool) -> int:
    """Bytes on the model's device: the weights, and keys and values. Deterministic mode takes all it may at once."""
    config = EngineConfig(deterministic=deterministic)
    wanted = wanted_kv_size(model, config)
    usual = config.max_rows * min(CHAT_TOKENS, wanted.context) * wanted.bytes_per_token
    return OF_A_PROCESS + model.nbytes + (wanted.budget if deterministic else usual)
