"""Detector: early against late at the sampled positions of a step, and the lens contrast built on the same read-out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steering.engine.request import Reading
from steering.engine.sequence import Sequence
from steering.engine.table import dose, is_steered
from steering.lens import Unembed, candidate_readout, drift
from steering.plan import Detector, Plan

TRACE_CANDIDATES = 5
"""Candidates of each side that a reading names."""


@dataclass(frozen=True)
class ReadOut:
    """Early and late logits on the candidate sets of some decode rows, all read through one detector."""

    rows: list[int]
    sequences: list[Sequence]
    ids: Tensor
    """[R, C] the most probable tokens of the late distribution"""
    early: Tensor
    """[R, C] logits"""
    late: Tensor
    """[R, C] logits"""
    drift: Tensor
    """[R] bits"""


def read_out(
    sequences: tuple[Sequence, ...], early: dict[int, Tensor], logits: Tensor, unembed: Unembed
) -> list[ReadOut]:
    """One read-out per detector in use. early: lens layer -> [n, D]; logits: [n, V] of the decode rows."""
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
    if len(rows) < len(logits):
        index = torch.tensor(rows, device=logits.device)
        hidden, logits = hidden[index], logits[index]
    late, ids = logits.topk(min(detector.num_candidates, logits.shape[-1]), sorted=True)
    early = candidate_readout(detector.lens, unembed, hidden, ids).float()
    late = late.float()
    return ReadOut(rows, sequences, ids, early, late, drift(early, late))


def contrast(logits: Tensor, readout: ReadOut) -> None:
    """Applies the rows' lens contrasts to `logits` [n, V] in place. A drift gate opens at once here: no retry."""
    corrections = {c for s in readout.sequences for c in s.request.plan.logit_corrections}
    for correction in sorted(corrections, key=lambda c: c.name):
        weights = torch.tensor(
            [
                dose(correction, s.request.plan, "completion", is_open=True)
                if correction in s.request.plan.logit_corrections
                else 0.0
                for s in readout.sequences
            ],
            device=logits.device,
        )
        if correction.gate.kind == "drift":
            weights = torch.where(fired(readout) | _open(readout), weights, 0.0)
        delta = correction.edit.delta(readout.early, readout.late, weights[:, None])
        rows = torch.tensor(readout.rows, device=logits.device)[:, None]
        logits[rows, readout.ids] += delta.to(logits.dtype)


def fired(readout: ReadOut) -> Tensor:
    """[R] bool: drift above the row's threshold."""
    thresholds = [s.request.plan.detector.threshold for s in readout.sequences if s.request.plan.detector]
    return readout.drift > torch.tensor(thresholds, device=readout.drift.device)


def _has_drift_gate(plan: Plan) -> bool:
    """A plan without corrections (observe-only) fires too: it tells where a gate would open."""
    return not plan.all_corrections or any(c.gate.kind == "drift" for c in plan.all_corrections)


def _open(readout: ReadOut) -> Tensor:
    return torch.tensor([s.is_open for s in readout.sequences], device=readout.drift.device)


def readings(readout: ReadOut) -> dict[int, Reading]:
    """Row -> reading, on the host: the one device copy of a read-out."""
    traced = any(s.request.plan.trace == "tokens" for s in readout.sequences)
    k = min(TRACE_CANDIDATES if traced else 1, readout.ids.shape[-1])
    early, early_order = readout.early.log_softmax(-1).topk(k)
    late, late_order = readout.late.log_softmax(-1).topk(k)
    columns = (early, readout.ids.gather(-1, early_order), late, readout.ids.gather(-1, late_order))
    packed = torch.cat([readout.drift[:, None].double(), fired(readout)[:, None].double(), *columns], dim=-1).tolist()
    result = {}
    for row, sequence, values in zip(readout.rows, readout.sequences, packed, strict=True):
        drift_bits, has_fired, lists = values[0], bool(values[1]), values[2:]
        sides = [lists[i * k : (i + 1) * k] for i in range(4)]
        plan = sequence.request.plan
        result[row] = Reading(
            drift=drift_bits,
            early=tuple(zip(map(int, sides[1]), sides[0], strict=True)),
            late=tuple(zip(map(int, sides[3]), sides[2], strict=True)),
            fired=has_fired and not sequence.is_open and any(c.gate.kind == "drift" for c in plan.all_corrections),
            late_steered=is_steered(plan, "completion", is_open=sequence.is_open),
        )
    return result
