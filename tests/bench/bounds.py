"""What no engine can beat, and what few do: memory read at full speed, and the products of the weights alone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steering.model.loading import LanguageModel
from tests.bench.rounds import Contender
from tests.bench.workload import Workload

STREAMED_BYTES = 2**29
"""Far more than any cache holds."""


def weights(model: LanguageModel) -> tuple[list[Tensor], Tensor]:
    """Of the linears inside the blocks, and of the unembedding."""
    head = model.hf.get_output_embeddings()
    inside = [m.weight for m in model.hf.modules() if isinstance(m, nn.Linear) and m is not head]
    return inside, head.weight


def bandwidth_bound(model: LanguageModel, work: Workload) -> Contender:
    """Seconds in which memory gives every weight once a step; prompts are free."""
    inside, head = weights(model)
    nbytes = sum(w.nbytes for w in inside) + head.nbytes
    streamed = torch.ones(STREAMED_BYTES // 4)

    def contender() -> float:
        start = time.perf_counter()
        streamed.sum()
        return (time.perf_counter() - start) / streamed.nbytes * nbytes * work.new

    return contender


def linears_floor(model: LanguageModel, work: Workload) -> Contender:
    """All products of prompts and steps, each plain `F.linear`, and nothing between them. The prompts' last tokens draw
    the first token of each answer."""
    inside, head = weights(model)

    def inputs(rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        shared: dict[int, Tensor] = {}
        for weight in inside:
            yield shared.setdefault(weight.shape[1], torch.ones(rows, weight.shape[1])), weight

    prompt, step = list(inputs(work.batch * work.prompt)), list(inputs(work.batch))
    last = torch.ones(work.batch, head.shape[1])

    @torch.inference_mode()
    def contender() -> float:
        start = time.perf_counter()
        for i in range(work.new):
            for x, weight in step if i else prompt:
                F.linear(x, weight)
            F.linear(last, head)
        return time.perf_counter() - start

    return contender
