"""What every layer says at a prompt's positions, read in the passes that compute its keys and values.

The positions of a chunk and the last one, which is a decode row, are read alike. A position counts as one prompt token
for each layer that is read (`Sequence.prefill_cost`), so that reading takes no more of a step than prompts do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from steering.engine.lens_query import Grid, LayerReading, LensQuery
from steering.engine.runner import Forward
from steering.engine.scheduler import Batch
from steering.engine.scoring import BLOCK
from steering.engine.sequence import Sequence
from steering.lens import drift, full_readout
from steering.model.layout import LinearUnembed

Readings = dict[int, tuple[LayerReading, ...]]
"""By position."""


def read_prompts(batch: Batch, forward: Forward, unembed: LinearUnembed) -> dict[Sequence, Readings]:
    """Of all sequences that ask for it; nothing of a chunk that is not finite, which ends its sequence anyway."""
    read: dict[Sequence, Readings] = {}
    for row, sequence in enumerate(batch.rows):
        if query := sequence.lens_query:
            states = {lens.layer: forward.early[lens.layer][row : row + 1] for lens in query.lenses}
            read[sequence] = _by_position(sequence, read_layers(query, states, forward.logits[row : row + 1], unembed))
    for chunk, states, hidden in zip(batch.chunks, forward.chunk_states, forward.chunks, strict=True):
        if (query := chunk.sequence.lens_query) and hidden is not None:
            read[chunk.sequence] = _by_position(chunk.sequence, _read_blocks(query, states, hidden, unembed))
    return read


def _by_position(sequence: Sequence, grid: Grid) -> Readings:
    return dict(enumerate(grid, sequence.num_computed))


def _read_blocks(query: LensQuery, states: Mapping[int, Tensor], hidden: Tensor, unembed: LinearUnembed) -> Grid:
    """hidden: [P, D] after the final norm. Logits of few positions exist at the same time."""
    grid: Grid = ()
    for start in range(0, len(hidden), BLOCK):
        block = slice(start, start + BLOCK)
        here = {layer: h[block] for layer, h in states.items()}
        grid += read_layers(query, here, unembed.normed_logits(hidden[block]), unembed)
    return grid


def read_layers(query: LensQuery, states: Mapping[int, Tensor], output: Tensor, unembed: LinearUnembed) -> Grid:
    """states: lens layer -> [P, D] hidden states; output: [P, V] logits."""
    late = output.float().log_softmax(-1)
    early = (full_readout(lens, unembed, states[lens.layer]).float().log_softmax(-1) for lens in query.lenses)
    columns = [_read(query, logprobs, late) for logprobs in (*early, late)]
    return tuple(zip(*columns, strict=True))


def _read(query: LensQuery, logprobs: Tensor, late: Tensor) -> list[LayerReading]:
    """One layer at all positions: [P, V] log-probabilities of its own and of the output."""
    values, ids = logprobs.topk(min(query.top, logprobs.shape[-1]))
    entropy = -(logprobs.exp() * logprobs).sum(-1) / math.log(2)
    kl = (late.exp() * (late - logprobs)).sum(-1).clamp_min(0.0) / math.log(2)
    wanted = logprobs[:, torch.tensor(query.candidates, dtype=torch.long, device=logprobs.device)]
    drifts = _drifts(logprobs, late, query.drift_among)
    return [
        LayerReading(tuple(zip(best, theirs, strict=True)), bits, loss, tuple(asked), apart)
        for (best, theirs, bits, loss, asked), apart in zip(
            zip(*(column.tolist() for column in (ids, values, entropy, kl, wanted)), strict=True), drifts, strict=True
        )
    ]


def _drifts(logprobs: Tensor, late: Tensor, count: int | None) -> list[float] | list[None]:
    """[P, V] of a layer and of the output."""
    if count is None:
        return [None] * len(late)
    ids = late.topk(min(count, late.shape[-1])).indices
    sides = torch.stack((logprobs.gather(-1, ids), late.gather(-1, ids))).log_softmax(-1)
    drifts: list[float] = drift(sides).tolist()
    return drifts
