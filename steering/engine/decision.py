"""Decision: from a forward's logits to one drawn token per decode row, with what the lens read on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from steering.engine.constraint import restrict
from steering.engine.detector import ReadOut, contrast, read_out, readings
from steering.engine.layer_contrast import layer_contrasts
from steering.engine.penalties import penalise
from steering.engine.request import Reading, Token
from steering.engine.runner import Forward
from steering.engine.sampler import Changed, sample
from steering.engine.sequence import Sequence
from steering.engine.table import dose
from steering.lens import Unembed


class Scores(NamedTuple):
    """Log-probabilities that go with a drawn token, as far as they are asked for; fields as in `Token`."""

    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    distribution: Tensor | None = None


@dataclass(frozen=True)
class Decision:
    """What one decode row's position came to, before anything is committed."""

    token_id: int | None
    """None: the row's logits are not finite."""
    reading: Reading | None
    scores: Scores
    base_logprobs: Tensor | None
    """[V] before corrections at the logits; only for requests that trace tokens."""


def decide(rows: tuple[Sequence, ...], forward: Forward, unembed: Unembed) -> list[Decision]:
    """One decision per row of `forward.logits` [n, V], which corrections at the logits change in place."""
    if not rows:
        return []
    logits = forward.logits
    readouts = read_out(rows, forward, unembed)
    base = _log_softmax(logits, [r for r, s in enumerate(rows) if _traced(s)])
    finite = _correct_logits(rows, forward, readouts, unembed)
    params = [sequence.request.sampling for sequence in rows]
    uniforms = [0.0 if p.greedy else s.uniform for p, s in zip(params, rows, strict=True)]
    ids = sample(logits, params, uniforms, changed_logits(rows, logits))
    for row, sequence in enumerate(rows):
        if sequence.forced_token_id is not None:
            ids[row] = sequence.forced_token_id
    token_ids = torch.where(finite, ids, -1).tolist()
    seen = {row: reading for readout in readouts for row, reading in readings(readout, unembed).items()}
    scores = _scores(rows, logits, token_ids)
    return [
        Decision(
            token_id=token_id if token_id >= 0 else None,
            reading=seen.get(row),
            scores=scores.get(row, Scores()),
            base_logprobs=base.get(row),
        )
        for row, token_id in enumerate(token_ids)
    ]


def changed_logits(rows: tuple[Sequence, ...], logits: Tensor) -> Changed | None:
    """What rows with penalties, a bias or a constraint are drawn from instead of logits [n, V], which stay."""
    changed = [row for row, s in enumerate(rows) if s.request.sampling.penalises or s.guide is not None]
    if not changed:
        return None
    scores = logits[torch.tensor(changed, device=logits.device)].float()
    sequences = [rows[row] for row in changed]
    penalise(sequences, scores)
    restrict({row: s.guide for row, s in enumerate(sequences) if s.guide is not None}, scores)
    return Changed(changed, scores)


def _correct_logits(rows: tuple[Sequence, ...], forward: Forward, readouts: list[ReadOut], unembed: Unembed) -> Tensor:
    """Applies all corrections at the logits, every delta of the logits before any; returns [n] bool, rows that are
    finite but for what a layer contrast rules out (-inf)."""
    logits = forward.logits
    deltas = layer_contrasts(rows, forward, readouts, unembed)
    for readout in readouts:
        contrast(logits, readout)
    finite = logits.sum(-1, dtype=torch.float32).isfinite()  # float16 would overflow
    for index, delta in deltas:
        logits[index] = (logits[index] + delta).to(logits.dtype)
        finite[index] &= logits[index].amax(-1).isfinite()
    return finite


def token_of(sequence: Sequence, decision: Decision, token_id: int) -> Token:
    """The token a decision commits. A retried position reports what its uncorrected pass read."""
    plan = sequence.request.plan
    reading, base = decision.reading, decision.base_logprobs
    steered = ("completion", sequence.openness) in plan.steered_at or _contrasted(sequence, reading)
    if sequence.retrying is not None:
        reading, base = sequence.retrying.reading, sequence.retrying.base_logprobs
    if reading is not None and base is not None and not reading.late_steered:
        reading = replace(reading, base_logprob=base[token_id].item())
    return Token(token_id, *decision.scores, steered=steered, exempt=sequence.is_exempt, reading=reading)


def _contrasted(sequence: Sequence, reading: Reading | None) -> bool:
    """Whether a contrast at the logits acts; it takes effect where its gate fires, and not at all where a <= 0."""
    openness = "open" if reading is not None and reading.fired else sequence.openness
    plan = sequence.request.plan
    return any(dose(c, plan, "completion", openness) > 0.0 for c in plan.logit_corrections)


def _traced(sequence: Sequence) -> bool:
    plan = sequence.request.plan
    return plan.trace == "tokens" and sequence.is_measured


def _log_softmax(logits: Tensor, rows: list[int]) -> dict[int, Tensor]:
    """Row -> [V] log-probabilities, of the named rows only."""
    if not rows:
        return {}
    logprobs = logits[torch.tensor(rows, device=logits.device)].float().log_softmax(-1)
    return dict(zip(rows, logprobs, strict=True))


def _scores(rows: tuple[Sequence, ...], logits: Tensor, token_ids: list[int]) -> dict[int, Scores]:
    """Of the rows that asked for any."""
    asked = {row: s.request.sampling for row, s in enumerate(rows) if token_ids[row] >= 0 and s.request.sampling.scores}
    result = {}
    for row, logprobs in _log_softmax(logits, list(asked)).items():
        values, ids = logprobs.topk(min(asked[row].logprobs or 0, logprobs.shape[0]))
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        distribution = logprobs.cpu() if asked[row].distributions else None
        result[row] = Scores(logprobs[token_ids[row]].item(), top, distribution)
    return result
