"""Detector: early against late at the sampled positions of a step, and the lens contrast built on the same read-out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steering.engine.request import Reading
from steering.engine.sequence import Sequence
from steering.engine.table import dose, is_steered
from steering.gate import Gate
from steering.lens import Unembed, drift
from steering.plan import Detector

BLOCK = 16
"""Logits a block holds in the search for the most probable ones."""
TRACE_CANDIDATES = 5
"""Candidates of each side that a reading names."""


@dataclass(frozen=True)
class ReadOut:
    """Early and late logits on the candidate sets of some decode rows, all read through one detector."""

    rows: list[int]
    sequences: list[Sequence]
    ids: Tensor
    """[R, C] the most probable tokens of the late distribution, most probable first"""
    early: Tensor
    """[R, C] logits"""
    late: Tensor
    """[R, C] logits"""
    drift: Tensor
    """[R] bits"""


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
    early = unembed.candidate_logits(translated[: len(logits)], ids).float()
    late = late.float()
    return ReadOut(rows, sequences, ids, early, late, drift(early, late))


def _most_probable(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`logits.topk(k)`, [R, V] -> values and ids [R, k], about twice as fast for large V.

    Of V / BLOCK interleaved blocks, the k with the largest maxima hold the k largest logits.
    """
    R, V = logits.shape
    if V % BLOCK or k >= V // BLOCK:
        return logits.topk(min(k, V))
    stride = V // BLOCK
    blocks = logits.view(R, BLOCK, stride).amax(1).topk(k, sorted=False).indices
    ids = (blocks[:, None] + torch.arange(0, V, stride, device=logits.device)[:, None]).view(R, -1)
    values, order = logits.gather(1, ids).topk(k)
    return values, ids.gather(1, order)


def contrast(logits: Tensor, readout: ReadOut) -> None:
    """Applies the rows' lens contrasts to `logits` [n, V] in place. A drift gate opens at once here: no retry."""
    corrections = {c for s in readout.sequences for c in s.request.plan.logit_corrections}
    for correction in sorted(corrections, key=lambda c: c.name):
        weights = torch.tensor(
            [
                dose(correction, s.request.plan, "completion", "open")
                if correction in s.request.plan.logit_corrections
                else 0.0
                for s in readout.sequences
            ],
            device=logits.device,
        )
        if correction.gate.kind == "drift":
            weights = torch.where(fired(readout) | _passed(readout, correction.gate), weights, 0.0)
        delta = correction.edit.delta(readout.early, readout.late, weights[:, None])
        rows = torch.tensor(readout.rows, device=logits.device)[:, None]
        logits[rows, readout.ids] += delta.to(logits.dtype)


def fired(readout: ReadOut) -> Tensor:
    """[R] bool: drift above the row's threshold."""
    thresholds = [s.request.plan.detector.threshold for s in readout.sequences if s.request.plan.detector]
    return readout.drift > torch.tensor(thresholds, device=readout.drift.device)


def _passed(readout: ReadOut, gate: Gate) -> Tensor:
    """[R] bool: rows at which a gate stood open before their drift was read."""
    return torch.tensor([gate.passes("completion", s.openness) for s in readout.sequences], device=readout.drift.device)


def _can_fire(sequence: Sequence) -> bool:
    """Whether a drift gate is still shut. A plan without corrections fires too: it tells where a gate would open."""
    gates = [correction.gate for correction in sequence.request.plan.all_corrections]
    return not gates or any(g.kind == "drift" and not g.passes("completion", sequence.openness) for g in gates)


def readings(readout: ReadOut) -> dict[int, Reading]:
    """Row -> reading, on the host: the one device copy of a read-out."""
    traced = any(s.request.plan.trace == "tokens" for s in readout.sequences)
    k = min(TRACE_CANDIDATES if traced else 1, readout.ids.shape[-1])
    # A stable sort, for ties: what comes first must not depend on k, and so on what other rows trace.
    early, order = readout.early.log_softmax(-1).sort(dim=-1, descending=True, stable=True)
    late = readout.late.log_softmax(-1)  # sorted already, as are the candidates
    columns = [column[:, :k] for column in (early, readout.ids.gather(-1, order), late, readout.ids)]
    packed = torch.cat([readout.drift[:, None].double(), fired(readout)[:, None].double(), *columns], dim=-1).tolist()
    result = {}
    for row, sequence, values in zip(readout.rows, readout.sequences, packed, strict=True):
        drift_bits, has_fired, lists = values[0], bool(values[1]), values[2:]
        sides = [lists[i * k : (i + 1) * k] for i in range(4)]
        result[row] = Reading(
            drift=drift_bits,
            early=tuple(zip(map(int, sides[1]), sides[0], strict=True)),
            late=tuple(zip(map(int, sides[3]), sides[2], strict=True)),
            fired=has_fired and _can_fire(sequence),
            late_steered=is_steered(sequence.request.plan, "completion", sequence.openness),
        )
    return result
