"""Detector: early against late at the sampled positions of a step, and the lens contrast built on the same read-out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steering.correction import LogitCorrection
from steering.edit import LensContrast
from steering.engine.request import Reading
from steering.engine.sequence import Sequence
from steering.engine.table import dose
from steering.lens import Unembed, drift
from steering.plan import Detector

BLOCK = 4
"""Logits a block holds in the search for the most probable ones."""
WORTH_BLOCKS = 2**14
"""Logits from which on searching by blocks is quicker."""
TRACE_CANDIDATES = 5
"""Tokens of each side that a reading names to a plan that traces tokens; to others one."""


@dataclass(frozen=True)
class ReadOut:
    """Early and late logits on the candidate sets of some decode rows, all read through one detector."""

    rows: list[int]
    sequences: list[Sequence]
    threshold: float
    """Drift above which a gate fires."""
    ids: Tensor
    """[R, C] the most probable tokens of the late distribution, in no order"""
    sides: Tensor
    """[2, R, C] log-probabilities of early and late, conditioned on the candidates"""
    drift: Tensor
    """[R] bits"""
    translated: Tensor
    """[>= R, D] early states through the lens, before the final norm"""


def read_out(
    sequences: tuple[Sequence, ...], early: dict[int, Tensor], logits: Tensor, unembed: Unembed
) -> list[ReadOut]:
    """One read-out per detector in use. early: lens layer -> [>= n, D]; logits: [n, V] of the decode rows."""
    groups: dict[Detector, list[int]] = {}
    for row, sequence in enumerate(sequences):
        plan = sequence.request.plan
        if plan.measures and plan.detector is not None:
            groups.setdefault(plan.detector, []).append(row)
    return [
        _read(detector, rows, [sequences[row] for row in rows], early[detector.lens.layer], logits, unembed)
        for detector, rows in groups.items()
    ]


def _read(
    detector: Detector,
    rows: list[int],
    sequences: list[Sequence],
    hidden: Tensor,
    logits: Tensor,
    unembed: Unembed,
) -> ReadOut:
    # Every row is translated, read or not: the bits of a matrix product depend on how many rows it has.
    translated = detector.lens.translate(hidden)
    if len(rows) < len(logits):
        index = torch.tensor(rows, device=logits.device)
        translated, logits = translated[index], logits[index]
    late, ids = _most_probable(logits, detector.num_candidates)
    early = unembed.candidate_logits(translated[: len(logits)], ids)
    sides = torch.stack((early, late)).float().log_softmax(-1)
    return ReadOut(rows, sequences, detector.threshold, ids, sides, drift(sides), translated)


def _most_probable(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits, [R, V] -> values and ids [R, k] in no order; about twice as fast as `topk` for large V.

    Of V / BLOCK interleaved blocks, the k with the largest maxima hold the k largest logits: found in the same way.
    """
    R, V = logits.shape
    if V % BLOCK or k >= V // BLOCK or logits.numel() < WORTH_BLOCKS:
        return logits.topk(min(k, V), sorted=False)
    blocks = logits.view(R, BLOCK, V // BLOCK)
    chosen = _most_probable(blocks.amax(1), k)[1]
    members = blocks.gather(2, chosen[:, None].expand(R, BLOCK, k))
    values, order = _most_probable(members.view(R, BLOCK * k), k)
    return values, chosen.gather(1, order % k) + order // k * (V // BLOCK)


def contrast(logits: Tensor, readout: ReadOut) -> None:
    """Applies the rows' lens contrasts to `logits` [n, V] in place. A drift gate opens at once here: no retry."""
    corrections = {c for s in readout.sequences for c in s.request.plan.logit_corrections}
    for correction in sorted(corrections, key=lambda c: c.name):
        if isinstance(correction.edit, LensContrast):
            doses = logit_doses(correction, readout.sequences, fired(readout))
            delta = correction.edit.delta(readout.sides[0], readout.sides[1], doses)
            rows = torch.tensor(readout.rows, device=logits.device)[:, None]
            logits[rows, readout.ids] += delta.to(logits.dtype)


def logit_doses(correction: LogitCorrection, sequences: list[Sequence], fired: Tensor) -> Tensor:
    """[R, 1] c of one correction; 0 in rows that do not carry it. fired: [R] bool, at this very position."""
    doses = torch.tensor(
        [
            dose(correction, s.request.plan, "completion", "open")
            if correction in s.request.plan.logit_corrections
            else 0.0
            for s in sequences
        ],
        device=fired.device,
    )
    if correction.gate.kind == "drift":
        stood_open = [correction.gate.passes("completion", s.openness) for s in sequences]
        doses = torch.where(fired | torch.tensor(stood_open, device=fired.device), doses, 0.0)
    return doses[:, None]


def fired(readout: ReadOut) -> Tensor:
    """[R] bool"""
    return readout.drift > readout.threshold


def readings(readout: ReadOut, unembed: Unembed) -> dict[int, Reading]:
    """Row -> reading, on the host: the one device copy of a read-out, and one more for each row that fired.

    Rows are left out where it would be news to nobody: not traced, below the threshold and below the answer's
    largest drift so far.
    """
    k = TRACE_CANDIDATES if any(s.request.plan.trace == "tokens" for s in readout.sequences) else 1
    k = min(k, readout.ids.shape[-1])
    logprobs, order = _highest(readout.sides, k)
    ids = readout.ids.expand_as(readout.sides).gather(-1, order)
    # float32 throughout: exact for token ids, which stay far below 2**24.
    columns = [readout.drift[:, None], fired(readout)[:, None], *ids, *logprobs]
    packed = torch.cat(columns, dim=-1).tolist()
    result = {}
    for i, (sequence, values) in enumerate(zip(readout.sequences, packed, strict=True)):
        if values[1] or values[0] > sequence.max_drift or sequence.request.plan.trace == "tokens":
            reading = _reading(sequence, k, values)
            early = _early_answer(readout, i, unembed) if reading.fired else reading.early
            result[readout.rows[i]] = replace(reading, early=early)
    return result


def _early_answer(readout: ReadOut, i: int, unembed: Unembed) -> tuple[tuple[int, float], ...]:
    """What the early layer says where a gate opened, of the whole vocabulary: the late layers may have left it out of
    their candidates. Row by row, so that what is named does not depend on which others fired."""
    k = TRACE_CANDIDATES if readout.sequences[i].request.plan.trace == "tokens" else 1
    logprobs = unembed.logits(readout.translated[i : i + 1]).float().log_softmax(-1)
    values, ids = (side[0].tolist() for side in _highest(logprobs, k))
    return tuple(zip(ids, values, strict=True))


def _highest(logprobs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """[..., C] -> the k highest and where they stand, [..., k]. Of ties the first: what leads must not depend on k,
    and so on what other rows trace."""
    if k == 1:
        values, order = logprobs.max(-1, keepdim=True)
        return values, order
    values, order = logprobs.sort(dim=-1, descending=True, stable=True)
    return values[..., :k], order[..., :k]


def _reading(sequence: Sequence, k: int, values: list[float]) -> Reading:
    """values: drift, whether it is over the threshold, k early and k late ids, their log-probabilities likewise."""
    drift_bits, over, *lists = values
    return Reading(
        drift=drift_bits,
        early=_pairs(lists[:k], lists[2 * k : 3 * k]),
        late=_pairs(lists[k : 2 * k], lists[3 * k :]),
        fired=over > 0.0 and _can_fire(sequence),
        late_steered=("completion", sequence.openness) in sequence.request.plan.steered_at,
    )


def _pairs(ids: list[float], logprobs: list[float]) -> tuple[tuple[int, float], ...]:
    return tuple(zip(map(int, ids), logprobs, strict=True))


def _can_fire(sequence: Sequence) -> bool:
    """Whether a drift gate is still shut. A plan without corrections fires too: it tells where a gate would open."""
    gates = [correction.gate for correction in sequence.request.plan.all_corrections]
    return not gates or any(g.kind == "drift" and not g.passes("completion", sequence.openness) for g in gates)
