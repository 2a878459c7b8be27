"""Penalties and bias: what a request and the answer so far do to the logits a token is drawn from.

Nothing is kept between steps: a row's changes follow from its own parameters and tokens alone, so they cannot end up
in a neighbour's row, and a retried position is drawn from the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Several

import torch
from torch import Tensor

from steering.engine.sequence import Sequence


def penalise(sequences: Several[Sequence], scores: Tensor) -> None:
    """Changes float32 `scores` [R, V], one row per sequence, in place, all rows at once.

    The repetition penalty is that of CTRL (Keskar et al. 2019, arXiv 1909.05858) with transformers' rule for negative
    logits; presence and frequency penalties and the bias are OpenAI's.
    """
    sampling = [s.request.sampling for s in sequences]
    if repeated := [row for row, p in enumerate(sampling) if p.repetition_penalty != 1.0]:
        seen = _entries(repeated, [sequences[row].token_ids for row in repeated], scores)
        penalty = _spread([sampling[row].repetition_penalty for row in repeated], seen, repeated, scores)
        values = scores[seen]
        scores[seen] = torch.where(values < 0, values * penalty, values / penalty)  # one twice is written twice, alike
    if counted := [row for row, p in enumerate(sampling) if p.presence_penalty or p.frequency_penalty]:
        tokens = [sequences[row].token_ids[sequences[row].num_prompt :] for row in counted]
        seen = _entries(counted, tokens, scores)
        scores[seen] -= _spread([sampling[row].presence_penalty for row in counted], seen, counted, scores)
        taken = _spread([sampling[row].frequency_penalty for row in counted], seen, counted, scores)
        scores.index_put_(seen, -taken, accumulate=True)  # equal numbers: in whatever order, the sum is the same
    if biased := [row for row, p in enumerate(sampling) if p.logit_bias]:
        entries = _entries(biased, [[i for i, _ in sampling[row].logit_bias] for row in biased], scores)
        added = [value for row in biased for _, value in sampling[row].logit_bias]
        scores[entries] += torch.tensor(added, dtype=torch.float32, device=scores.device)


def _entries(rows: Several[int], ids: Several[Several[int]], like: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) of `like`, one pair for each id of each row. One copy to the device."""
    lengths = torch.tensor([len(row) for row in ids])
    columns = torch.frombuffer(array("q", [0]) + _joined(ids), dtype=torch.int64)[1:]  # no tensor has an empty buffer
    pairs = torch.stack([torch.tensor(rows).repeat_interleave(lengths), columns]).to(like.device)
    return pairs[0], pairs[1]


def _joined(ids: Several[Several[int]]) -> array[int]:
    joined = array("q")  # ten times as quick as a tensor to make from a list
    for row in ids:
        joined += array("q", row)
    return joined


def _spread(values: Several[float], entries: tuple[Tensor, Tensor], rows: Several[int], like: Tensor) -> Tensor:
    """One value per row of `rows` -> the value of each entry's row."""
    table = torch.zeros(like.shape[0])
    table[torch.tensor(rows)] = torch.tensor(values, dtype=torch.float32)
    return table.to(like.device)[entries[0]]
