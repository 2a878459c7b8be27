"""Record neurons: what MLP neurons and the residual stream hold at given positions of many texts, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from steering.calibration.data import answer_position
from steering.contrast.item import Item
from steering.model.loading import LanguageModel
from steering.model.record import record_rows
from steering.site import Site

TOKENS_AT_ONCE = 4096
"""Of a forward."""
MAX_BYTES = 2 * 2**30
"""Of what is kept at once; at least one block is."""


@dataclass(frozen=True)
class Example:
    """A text, and where in it the model was about to cave, or was not."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    """Ascending, from 0; what is read there is pooled."""
    question_id: str

    def __post_init__(self) -> None:
        if not self.positions or not 0 <= min(self.positions) <= max(self.positions) < len(self.ids):
            raise ValueError(f"positions must be some of 0..{len(self.ids) - 1}, got {self.positions[:8]}")


@dataclass(frozen=True, eq=False)
class BlockRows:
    """One block, N positions."""

    layer: int
    mlp_act: Tensor | None
    """[N, F] on the CPU, in the model's type; None where the block is a mixture of experts"""
    residual: Tensor
    """[N, D] after the block"""


def deciding(model: LanguageModel, items: Sequence[Item]) -> list[Example]:
    """Where the answers' first tokens are decided."""
    texts = answer_position(model, items)
    return [Example(tuple(ids), (len(ids) - 1,), item.question_id) for ids, item in zip(texts, items, strict=True)]


def along_answer(prompt: Sequence[int], answer: Sequence[int], question_id: str) -> Example:
    """Where the tokens of an answer were decided, its first to its last."""
    return Example((*prompt, *answer), tuple(range(len(prompt) - 1, len(prompt) + len(answer) - 1)), question_id)


def record_blocks(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    max_bytes: int = MAX_BYTES,
) -> Iterator[BlockRows]:
    """The blocks in order. The model reads all texts again for every few blocks, so that no more than `max_bytes` are
    kept at once: N (F + D) numbers a block."""
    layout = model.layout
    count = sum(map(len, positions))
    per_block = max(1, count * (layout.d_mlp + layout.d_model) * model.dtype.itemsize)
    layers = iter(range(layout.num_layers))
    while several := list(islice(layers, max(1, max_bytes // per_block))):
        yield from _record(model, texts, positions, several)


def _record(
    model: LanguageModel, texts: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], layers: Sequence[int]
) -> Iterator[BlockRows]:
    dense = [layer for layer in layers if model.layout.mlp_outputs[layer] is not None]
    sites = [*(Site("mlp_act", layer) for layer in dense), *(Site("resid_post", layer) for layer in layers)]
    parts = [record_rows(model, texts[at], positions[at], sites, torch.device("cpu")) for at in _portions(texts)]
    for layer in layers:
        act = torch.cat([part.mlp_act.pop(layer) for part in parts]) if layer in dense else None
        yield BlockRows(layer, act, torch.cat([part.hidden.pop(layer + 1) for part in parts]))


def _portions(texts: Sequence[Sequence[int]]) -> Iterator[slice]:
    """Neighbours whose tokens together are at most TOKENS_AT_ONCE, or one text."""
    first, tokens = 0, 0
    for i, text in enumerate(texts):
        if i > first and tokens + len(text) > TOKENS_AT_ONCE:
            yield slice(first, i)
            first, tokens = i, 0
        tokens += len(text)
    yield slice(first, len(texts))
