"""Steering table: what each packed token of a step gets at each site."""

from __future__ import annotations

from dataclasses import fields, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steering.correction import AnyCorrection, Correction, WeightCorrection
from steering.edit import Edit, SparseWeights
from steering.engine.scheduler import Batch, Chunk
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


class SteeringTable:
    """Builds the taps of a step; keeps them while the same plans stand in the same rows in the same state."""

    def __init__(self, layout: Layout, *, dtype: torch.dtype, deterministic: bool) -> None:
        """deterministic: changed weights are applied to all rows, so that shapes do not depend on who carries them."""
        self._layout, self._dtype, self._deterministic = layout, dtype, deterministic
        self._devices = layout.devices
        self._patches: WeakKeyDictionary[SparseWeights, tuple[Patch, ...]] = WeakKeyDictionary()
        self._key: tuple[object, ...] = ()
        self._plans: tuple[Plan, ...] = ()  # kept alive, so that the ids in the key stay theirs
        self._doses: dict[Site, list[Dose]] = {}
        self._weights: dict[nn.Linear, list[WeightDose]] = {}

    def taps(self, batch: Batch, num_rows: int, num_tokens: int) -> Taps:
        """num_rows: decode rows with padding; num_tokens: N."""
        capture = frozenset(_lens_layers(batch))
        if not any(s.request.plan.acts for s in batch.sequences):
            return Taps({}, capture)
        key = (
            num_rows,
            *((id(s.request.plan), s.openness) for s in batch.rows),
            *((id(chunk.sequence.request.plan), chunk.length, *_runs(chunk)) for chunk in batch.chunks),
        )
        if key != self._key:
            self._key, self._plans = key, tuple(s.request.plan for s in batch.sequences)
            self._build(_spans(batch, num_rows), num_tokens)
        return Taps(self._doses, capture, self._weights)

    def _build(self, spans: list[Span], num_tokens: int) -> None:
        columns: dict[Correction | WeightCorrection, list[float]] = {}
        for plan, phase, openness, first, end in spans:
            for correction in plan.state_corrections:
                if c := dose(correction, plan, phase, openness):
                    column = columns.setdefault(correction, [0.0] * num_tokens)
                    column[first:end] = [c] * (end - first)
        self._doses, self._weights = {}, {}
        for correction, column in columns.items():
            if isinstance(correction, WeightCorrection):
                self._add_weights(correction.edit, column)
                continue
            device = self._devices[correction.site.layer]
            entry = self._column(column, device), _on(device, correction.edit)
            self._doses.setdefault(correction.site, []).append(entry)

    def _add_weights(self, edit: SparseWeights, column: list[float]) -> None:
        if edit not in self._patches:
            self._patches[edit] = patches(self._layout, edit)
        carrying = [i for i, c in enumerate(column) if c != 0.0]
        everywhere = self._deterministic or len(carrying) == len(column)
        kept = column if everywhere else [column[i] for i in carrying]
        for device in {patch.deltas.device for patch in self._patches[edit]}:
            c, rows = self._column(kept, device), None if everywhere else torch.tensor(carrying, device=device)
            for patch in self._patches[edit]:
                if patch.deltas.device == device:
                    self._weights.setdefault(patch.linear, []).append(WeightDose(patch, c, rows))

    def _column(self, values: list[float], device: torch.device) -> Tensor:
        """[N, 1]"""
        return torch.tensor(values, dtype=self._dtype, device=device)[:, None]


def _on(device: torch.device, edit: Edit) -> Edit:
    """Tensors of a plan are on the model's first device, a block may be on another."""
    return replace(edit, **{field.name: getattr(edit, field.name).to(device) for field in fields(edit)})


Span = tuple[Plan, Phase, Openness, int, int]
"""Packed tokens first .. end - 1 stand under one plan in one phase, with its drift gates in one state."""


def _spans(batch: Batch, num_rows: int) -> list[Span]:
    spans: list[Span] = [(s.request.plan, "completion", s.openness, row, row + 1) for row, s in enumerate(batch.rows)]
    first = num_rows
    for chunk in batch.chunks:
        plan = chunk.sequence.request.plan
        for phase, openness, start, end in _runs(chunk):
            spans.append((plan, phase, openness, first + start, first + end))
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
