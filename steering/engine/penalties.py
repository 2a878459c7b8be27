"""Penalties and bias: what a request and the answer so far do to the logits a token is drawn from.

Nothing is kept between steps: a row's changes follow from its own parameters and tokens alone, so they cannot end up
in a neighbour's row, and a retried position is drawn from the same.
"""

from __future__ import annotations

from collections.abc import Sequence as Several

import torch
from torch import Tensor

from steering.engine.sequence import Sequence


def penalised(rows: Several[Sequence], logits: Tensor) -> dict[int, Tensor]:
    """Row -> float32 [V] logits in place of `logits` [n, V], for the rows whose parameters change any."""
    return {row: _penalise(s, logits[row]) for row, s in enumerate(rows) if s.request.sampling.penalises}


def _penalise(sequence: Sequence, logits: Tensor) -> Tensor:
    """[V] -> a changed copy. The repetition penalty is that of CTRL (Keskar et al. 2019, arXiv 1909.05858) with
    transformers' rule for negative logits; presence and frequency penalties and the bias are OpenAI's."""
    sampling, generated = sequence.request.sampling, sequence.token_ids[sequence.num_prompt :]
    changed = logits.to(torch.float32, copy=True)
    if sampling.repetition_penalty != 1.0:
        seen = _ids(sequence.token_ids, logits)  # one twice is written twice, with one value
        values, penalty = changed[seen], sampling.repetition_penalty
        changed[seen] = torch.where(values < 0, values * penalty, values / penalty)
    if generated and (sampling.presence_penalty or sampling.frequency_penalty):
        ids, counts = torch.unique(torch.tensor(generated), return_counts=True)
        taken = sampling.presence_penalty + sampling.frequency_penalty * counts.float()
        changed[ids.to(logits.device)] -= taken.to(logits.device)
    if sampling.logit_bias:
        biased, added = zip(*sampling.logit_bias, strict=True)
        changed[_ids(biased, logits)] += torch.tensor(added, dtype=torch.float32, device=logits.device)
    return changed


def _ids(ids: Several[int], like: Tensor) -> Tensor:
    return torch.tensor(ids, device=like.device)
