"""Steering table: what each packed token of a step gets at each site.

What a step costs grows with the tokens that are steered, not with how many different corrections they are under: tokens
that get edits of one type and shape at one site share a dose, whose tensors are stacked where the edits differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steering.correction import AnyCorrection, Correction, WeightCorrection
from steering.edit import Edit, SparseWeights, kind_of, moved, stacked
from steering.engine.scheduler import Batch, Chunk
from steering.engine.sequence import Sequence
from steering.gate import Openness, Phase
from steering.model.hooks import Dose, Taps
from steering.model.layout import Layout
from steering.model.weights import Patch, WeightDose, patches
from steering.plan import Plan
from steering.site import Site


def dose(correction: AnyCorrection, plan: Plan, phase: Phase, openness: Openness) -> float:
    """c of one correction at one position: strength * gate * scope."""
    if plan.mode != "on" or not correction.gate.passes(phase, openness):
        return 0.0
    return plan.strength * correction.strength


def needs_retry(plan: Plan, openness: Openness) -> bool:
    """Whether hidden states come out differently once the gates of a sampled position open."""
    return any(dose(c, plan, "completion", openness) != dose(c, plan, "completion", "open") for c in plan.corrections)


class Place(NamedTuple):
    """What is computed together: tokens of one place share a dose."""

    order: int
    """How many corrections of its own plan a token gets at the site before this one: no sum depends on neighbours."""
    target: Site | SparseWeights
    kind: tuple[object, ...]
    """Type of the edit and shapes of its tensors."""


class Part(NamedTuple):
    """What one answer gets at its positions of one phase and openness."""

    place: Place
    c: float
    edit: Edit | SparseWeights


class Stretch(NamedTuple):
    """Packed tokens first .. end - 1 get `edit` with c."""

    first: int
    end: int
    c: float
    edit: Edit | SparseWeights


Group = tuple[Place, int, tuple[Stretch, ...]]
"""(place, N, what its tokens get): equal groups have equal doses."""


class SteeringTable:
    """Builds the taps of a step, and anew only what is not as it was in the step before."""

    def __init__(self, layout: Layout, *, dtype: torch.dtype, deterministic: bool) -> None:
        """deterministic: no matrix product may have a shape that depends on who is steered."""
        self._layout, self._dtype, self._deterministic = layout, dtype, deterministic
        self._devices = layout.devices
        self._patches: WeakKeyDictionary[SparseWeights, tuple[Patch, ...]] = WeakKeyDictionary()
        self._parts: WeakKeyDictionary[Sequence, dict[tuple[Phase, Openness], tuple[Part, ...]]] = WeakKeyDictionary()
        self._key: tuple[object, ...] = ()
        self._plans: tuple[Plan, ...] = ()  # kept alive, so that the ids in the key stay theirs
        self._capture = frozenset[int]()
        self._made: dict[Group, Dose] = {}
        self._made_weights: dict[Group, tuple[WeightDose, ...]] = {}
        self._doses: dict[Site, list[Dose]] = {}
        self._weights: dict[nn.Linear, list[WeightDose]] = {}

    def taps(self, batch: Batch, num_rows: int, num_tokens: int) -> Taps:
        """num_rows: decode rows with padding; num_tokens: N."""
        queried = _queried_layers(batch)
        if all(s.request.plan.mode == "off" for s in batch.sequences):
            return Taps({}, queried)
        key = (
            num_rows,
            *((id(s.request.plan), s.openness) for s in batch.rows),
            *((id(chunk.sequence.request.plan), chunk.length, *_runs(chunk)) for chunk in batch.chunks),
        )
        if key != self._key:
            self._key, self._plans = key, tuple(s.request.plan for s in batch.sequences)
            self._capture = frozenset(_lens_layers(batch))
            self._build(self._groups(_spans(batch, num_rows), num_tokens))
        return Taps(self._doses, self._capture | queried, self._weights)

    def _groups(self, spans: list[Span], num_tokens: int) -> list[Group]:
        """In the order in which a token's deltas are summed."""
        stretches: dict[Place, list[Stretch]] = {}
        for sequence, phase, openness, first, end in spans:
            for place, c, edit in self._parts_of(sequence, phase, openness):
                stretches.setdefault(place, []).append(Stretch(first, end, c, edit))
        places = sorted(stretches, key=lambda place: place.order)
        return [(place, num_tokens, tuple(stretches[place])) for place in places]

    def _parts_of(self, sequence: Sequence, phase: Phase, openness: Openness) -> tuple[Part, ...]:
        known, at = self._parts.setdefault(sequence, {}), (phase, openness)
        if at not in known:
            known[at] = tuple(_parts(sequence.request.plan, *at))
        return known[at]

    def _build(self, groups: list[Group]) -> None:
        made, self._made = self._made, {}
        made_weights, self._made_weights = self._made_weights, {}
        self._doses, self._weights = {}, {}
        for group in groups:
            target = group[0].target
            if isinstance(target, SparseWeights):
                self._made_weights[group] = made_weights.get(group) or self._weight_doses(group, target)
                for patched in self._made_weights[group]:
                    self._weights.setdefault(patched.patch.linear, []).append(patched)
            else:
                self._made[group] = made.get(group) or self._dose(group, self._devices[target.layer])
                self._doses.setdefault(target, []).append(self._made[group])

    def _dose(self, group: Group, device: torch.device) -> Dose:
        _, num_tokens, stretches = group
        edits = [s.edit for s in stretches for _ in range(s.first, s.end) if not isinstance(s.edit, SparseWeights)]
        if len(set(edits)) == 1:
            edits = edits[:1]
        edit = stacked(edits) if len(edits) > 1 or self._deterministic else edits[0]
        rows = _tokens(stretches)
        kept = None if len(rows) == num_tokens else torch.tensor(rows, device=device)
        return Dose(moved(edit, device), self._column(_doses(stretches), device), kept)

    def _weight_doses(self, group: Group, edit: SparseWeights) -> tuple[WeightDose, ...]:
        _, num_tokens, stretches = group
        if edit not in self._patches:
            self._patches[edit] = patches(self._layout, edit)
        rows, values = _tokens(stretches), _doses(stretches)
        everywhere = self._deterministic or len(rows) == num_tokens
        if everywhere:
            of = dict(zip(rows, values, strict=True))
            values = [of.get(i, 0.0) for i in range(num_tokens)]
        doses = []
        for device in {patch.deltas.device for patch in self._patches[edit]}:
            c, kept = self._column(values, device), None if everywhere else torch.tensor(rows, device=device)
            doses += [WeightDose(patch, c, kept) for patch in self._patches[edit] if patch.deltas.device == device]
        return tuple(doses)

    def _column(self, values: list[float], device: torch.device) -> Tensor:
        """[R, 1]"""
        return torch.tensor(values, dtype=self._dtype, device=device)[:, None]


def _parts(plan: Plan, phase: Phase, openness: Openness) -> Iterator[Part]:
    before: Counter[Site | None] = Counter()  # of weights the order among all those of the plan
    for correction in plan.state_corrections:
        site = correction.site if isinstance(correction, Correction) else None
        if c := dose(correction, plan, phase, openness):
            target = correction.edit if isinstance(correction, WeightCorrection) else correction.site
            yield Part(Place(before[site], target, kind_of(correction.edit)), c, correction.edit)
        before[site] += 1


def _tokens(stretches: tuple[Stretch, ...]) -> list[int]:
    return [i for s in stretches for i in range(s.first, s.end)]


def _doses(stretches: tuple[Stretch, ...]) -> list[float]:
    return [s.c for s in stretches for _ in range(s.first, s.end)]


Span = tuple[Sequence, Phase, Openness, int, int]
"""Packed tokens first .. end - 1 belong to one sequence in one phase, with its drift gates in one state."""


def _spans(batch: Batch, num_rows: int) -> list[Span]:
    spans: list[Span] = [(s, "completion", s.openness, row, row + 1) for row, s in enumerate(batch.rows)]
    first = num_rows
    for chunk in batch.chunks:
        for phase, openness, start, end in _runs(chunk):
            spans.append((chunk.sequence, phase, openness, first + start, first + end))
        first += chunk.length
    return spans


def _runs(chunk: Chunk) -> list[tuple[Phase, Openness, int, int]]:
    """Parts of a chunk, from its first token: several where it computes again what was generated."""
    runs = chunk.sequence.runs(chunk.start, chunk.start + chunk.length)
    return [(phase, openness, start - chunk.start, end - chunk.start) for phase, openness, start, end in runs]


def _lens_layers(batch: Batch) -> set[int]:
    plans = [sequence.request.plan for sequence in batch.rows]
    watched = {plan.detector.lens.layer for plan in plans if plan.measures and plan.detector}
    return watched.union(*(edit.bucket for plan in plans for _, edit in plan.layer_contrasts))


def _queried_layers(batch: Batch) -> frozenset[int]:
    """Layers that requests ask about, in rows and chunks alike."""
    queries = (sequence.lens_query for sequence in batch.sequences)
    return frozenset(lens.layer for query in queries if query for lens in query.lenses)
