"""Detector: early against late at the sampled positions of a step, and the lens contrast built on the same read-out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from steering.correction import LogitCorrection
from steering.edit import LayerContrast, LensContrast
from steering.engine.request import Reading
from steering.engine.runner import Forward
from steering.engine.sequence import Sequence
from steering.engine.table import dose
from steering.lens import Lens, Unembed, drift
from steering.plan import Plan, digest_of

Contrast = TypeVar("Contrast", LensContrast, LayerContrast)

BLOCK = 4
"""Logits a block holds in the search for the most probable ones."""
WORTH_BLOCKS = 2**14
"""Logits from which on searching by blocks is quicker."""
WHOLE = 8
"""Early logits of the whole vocabulary, one product, cost less than those of so large a part of it, gathered."""
TRACE_CANDIDATES = 10
"""Tokens of each side that a reading names to a plan that traces tokens; to others one."""


@dataclass(frozen=True)
class ReadOut:
    """Early and late logits on the candidate sets of some decode rows, all read through one lens."""

    rows: list[int]
    sequences: list[Sequence]
    thresholds: Tensor
    """[R] drift above which a row's gates fire."""
    ids: Tensor
    """[R, C] the most probable tokens of the late distribution, in no order"""
    sides: Tensor
    """[2, R, C] log-probabilities of early and late, conditioned on the candidates"""
    drift: Tensor
    """[R] bits"""
    translated: Tensor
    """[R, D] early states through the lens, before the final norm"""
    fixed_rows: bool
    """Deterministic mode: no matrix product may have as many rows as happen to be wanted."""


def read_out(sequences: tuple[Sequence, ...], forward: Forward, unembed: Unembed) -> list[ReadOut]:
    """One read-out per lens and size of candidate set in use, whatever the thresholds."""
    watched: dict[tuple[Lens, int], list[int]] = {}
    for row, sequence in enumerate(sequences):
        plan = sequence.request.plan
        if sequence.is_measured and plan.detector is not None:
            watched.setdefault((plan.detector.lens, plan.detector.num_candidates), []).append(row)
    return [
        _read(rows, [sequences[row] for row in rows], detector, forward, unembed)
        for detector, rows in _equal_lenses_as_one(watched).items()
    ]


def _equal_lenses_as_one(watched: dict[tuple[Lens, int], list[int]]) -> dict[tuple[Lens, int], list[int]]:
    """Many profiles may have copies of one lens, each of which would be a matrix product of its own."""
    if len(watched) == 1:
        return watched
    num_lenses = Counter(layer for layer, _ in {(lens.layer, id(lens)) for lens, _ in watched})
    first: dict[Lens | str, Lens] = {}
    merged: dict[tuple[Lens, int], list[int]] = {}
    for (lens, num_candidates), rows in watched.items():
        one = first.setdefault(lens if num_lenses[lens.layer] == 1 else digest_of(lens), lens)
        merged.setdefault((one, num_candidates), []).extend(rows)
    return {detector: sorted(rows) for detector, rows in merged.items()}


def _read(
    rows: list[int], sequences: list[Sequence], detector: tuple[Lens, int], forward: Forward, unembed: Unembed
) -> ReadOut:
    lens, num_candidates = detector
    hidden, logits = forward.early[lens.layer], forward.logits
    # With fixed rows every row is translated, read or not: the bits of a matrix product depend on how many it has.
    translated = lens.translate(hidden) if forward.fixed_rows else hidden
    if len(rows) < len(hidden):
        index = torch.tensor(rows, device=logits.device)
        translated, logits = translated[index], logits[index]
    if not forward.fixed_rows:
        translated = lens.translate(translated)
    late, ids = _most_probable(logits, num_candidates)
    if num_candidates * WHOLE >= logits.shape[-1] and not forward.fixed_rows:
        early = unembed.logits(translated).gather(-1, ids)
    else:
        early = unembed.candidate_logits(translated, ids)
    sides = torch.stack((early, late)).float().log_softmax(-1)
    detectors = [sequence.request.plan.detector for sequence in sequences]
    thresholds = torch.tensor([detector.threshold for detector in detectors if detector], device=logits.device)
    return ReadOut(rows, sequences, thresholds, ids, sides, drift(sides), translated, forward.fixed_rows)


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
    if not any(s.request.plan.logit_corrections for s in readout.sequences):
        return
    over = fired(readout)
    for edit, carrying in together(_lens_contrasts(s.request.plan) for s in readout.sequences):
        at = torch.tensor([i for i, _ in carrying], device=logits.device)
        doses = logit_doses([(readout.sequences[i], c) for i, c in carrying], over[at])
        delta = edit.delta(readout.sides[0, at], readout.sides[1, at], doses)
        rows = torch.tensor([readout.rows[i] for i, _ in carrying], device=logits.device)[:, None]
        logits[rows, readout.ids[at]] += delta.to(logits.dtype)


def _lens_contrasts(plan: Plan) -> list[tuple[LogitCorrection, LensContrast]]:
    if not plan.acts:
        return []
    return [(c, c.edit) for c in plan.logit_corrections if isinstance(c.edit, LensContrast)]


def together(
    parts: Iterable[Iterable[tuple[LogitCorrection, Contrast]]],
) -> list[tuple[Contrast, list[tuple[int, LogitCorrection]]]]:
    """What can be computed together of the contrasts of several plans: an edit, and who carries it, as (plan,
    correction). A plan is once in a list, and lists follow its own order: no sum depends on neighbours."""
    carrying: dict[tuple[int, Contrast], list[tuple[int, LogitCorrection]]] = {}
    for i, own in enumerate(parts):
        for order, (correction, edit) in enumerate(own):
            carrying.setdefault((order, edit), []).append((i, correction))
    return [(edit, rows) for (_, edit), rows in sorted(carrying.items(), key=lambda entry: entry[0][0])]


def logit_doses(carrying: Several[tuple[Sequence, LogitCorrection]], fired: Tensor) -> Tensor:
    """[R, 1] c of one correction per row. fired: [R] bool, at this very position."""
    doses = [dose(c, s.request.plan, "completion", "open") for s, c in carrying]
    shut = [not c.gate.passes("completion", s.openness) for s, c in carrying]
    made = torch.tensor(doses, device=fired.device)
    if any(shut):
        made = torch.where(torch.tensor(shut, device=fired.device) & ~fired, 0.0, made)
    return made[:, None]


def fired(readout: ReadOut) -> Tensor:
    """[R] bool"""
    return readout.drift > readout.thresholds


def readings(readout: ReadOut, unembed: Unembed) -> dict[int, Reading]:
    """Row -> reading, on the host: one device copy of a read-out, another where something is news, and one for each row
    that fired.

    Rows are left out where it would be news to nobody: not traced, below the threshold and below the answer's
    largest drift so far.
    """
    measured = torch.stack((readout.drift, fired(readout))).tolist()
    told = [
        (i, row, sequence, *of_row)
        for i, (row, sequence, *of_row) in enumerate(zip(readout.rows, readout.sequences, *measured, strict=True))
        if of_row[1] or of_row[0] > sequence.max_drift or sequence.request.plan.trace == "tokens"
    ]
    if not told:
        return {}
    k = TRACE_CANDIDATES if any(s.request.plan.trace == "tokens" for _, _, s, *_ in told) else 1
    k = min(k, readout.ids.shape[-1])
    news = torch.tensor([i for i, *_ in told], device=readout.ids.device)
    sides = readout.sides[:, news]
    logprobs, order = _highest(sides, k)
    ids = readout.ids[news].expand_as(sides).gather(-1, order)
    # float32 throughout: exact for token ids, which stay far below 2**24.
    packed = torch.cat([*ids, *logprobs], dim=-1).tolist()
    result = {}
    opened: dict[int, int] = {}
    for (i, row, sequence, drift_bits, over), lists in zip(told, packed, strict=True):
        result[row] = _reading(sequence, k, drift_bits, over > 0.0, lists)
        # A whole read-out only where somebody is told of it: of an untraced answer the receipt names one position.
        if result[row].fired and (sequence.request.plan.trace == "tokens" or not sequence.has_fired):
            opened[row] = i
    for row, early in zip(opened, _early_answers(readout, list(opened.values()), unembed), strict=True):
        result[row] = replace(result[row], early=early)
    return result


def _early_answers(readout: ReadOut, opened: list[int], unembed: Unembed) -> list[tuple[tuple[int, float], ...]]:
    """What the early layer says where a gate opened, of the whole vocabulary: the late layers may have left it out of
    their candidates."""
    answers = []
    for some in [[i] for i in opened] if readout.fixed_rows else [opened] if opened else []:
        lists = [TRACE_CANDIDATES if readout.sequences[i].request.plan.trace == "tokens" else 1 for i in some]
        logprobs = unembed.logits(readout.translated[some]).float().log_softmax(-1)
        values, ids = (side.tolist() for side in _highest(logprobs, max(lists)))
        answers += [tuple(zip(ids[i][:k], values[i][:k], strict=True)) for i, k in enumerate(lists)]
    return answers


def _highest(logprobs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """[..., C] -> the k highest and where they stand, [..., k]. Of ties the first: what leads must not depend on k,
    and so on what other rows trace."""
    if k == 1:
        values, order = logprobs.max(-1, keepdim=True)
        return values, order
    values, order = logprobs.sort(dim=-1, descending=True, stable=True)
    return values[..., :k], order[..., :k]


def _reading(sequence: Sequence, k: int, drift_bits: float, over: bool, lists: list[float]) -> Reading:
    """over: the threshold. lists: k early and k late ids, their log-probabilities likewise."""
    return Reading(
        drift=drift_bits,
        early=_pairs(lists[:k], lists[2 * k : 3 * k]),
        late=_pairs(lists[k : 2 * k], lists[3 * k :]),
        fired=over and _can_fire(sequence),
        late_steered=("completion", sequence.openness) in sequence.request.plan.steered_at,
    )


def _pairs(ids: list[float], logprobs: list[float]) -> tuple[tuple[int, float], ...]:
    return tuple(zip(map(int, ids), logprobs, strict=True))


def _can_fire(sequence: Sequence) -> bool:
    """Whether a drift gate is still shut. A plan without corrections fires too: it tells where a gate would open."""
    gates = [correction.gate for correction in sequence.request.plan.all_corrections]
    return not gates or any(g.kind == "drift" and not g.passes("completion", sequence.openness) for g in gates)
