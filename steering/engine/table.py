"""Steering table: what each packed token of a step gets at each site."""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import fields, replace

import torch

from steering.correction import Correction, LogitCorrection
from steering.edit import Edit
from steering.engine.scheduler import Batch
from steering.engine.sequence import Sequence
from steering.gate import Openness, Phase
from steering.model.hooks import Dose, Taps
from steering.plan import Plan
from steering.site import Site


def dose(correction: Correction | LogitCorrection, plan: Plan, phase: Phase, openness: Openness) -> float:
    """c of one correction at one position: strength * gate * scope."""
    if plan.mode != "on" or not correction.gate.passes(phase, openness):
        return 0.0
    return plan.strength * correction.strength


def is_steered(plan: Plan, phase: Phase, openness: Openness) -> bool:
    """Whether any correction of hidden states acts at such a position."""
    return any(dose(c, plan, phase, openness) != 0.0 for c in plan.corrections)


def needs_retry(plan: Plan, openness: Openness) -> bool:
    """Whether hidden states come out differently once the gates of a sampled position open."""
    return any(dose(c, plan, "completion", openness) != dose(c, plan, "completion", "open") for c in plan.corrections)


class SteeringTable:
    """Builds the taps of a step; keeps them while the same plans stand in the same rows in the same state."""

    def __init__(self, *, dtype: torch.dtype, devices: Several[torch.device]) -> None:
        """devices: one per layer, where its block is."""
        self._dtype, self._devices = dtype, devices
        self._key: tuple[object, ...] = ()
        self._plans: tuple[Plan, ...] = ()  # kept alive, so that the ids in the key stay theirs
        self._doses: dict[Site, list[Dose]] = {}

    def taps(self, batch: Batch, num_rows: int, num_tokens: int) -> Taps:
        """num_rows: decode rows with padding; num_tokens: N."""
        capture = frozenset(_lens_layers(batch))
        if not any(s.request.plan.acts for s in batch.sequences):
            return Taps({}, capture)
        key = (
            num_rows,
            *((id(s.request.plan), s.openness) for s in batch.rows),
            *((id(chunk.sequence.request.plan), chunk.length) for chunk in batch.chunks),
        )
        if key != self._key:
            self._key, self._plans = key, tuple(s.request.plan for s in batch.sequences)
            self._doses = self._build(_spans(batch, num_rows), num_tokens)
        return Taps(self._doses, capture)

    def _build(self, spans: list[Span], num_tokens: int) -> dict[Site, list[Dose]]:
        columns: dict[Correction, list[float]] = {}
        for sequence, phase, first, end in spans:
            plan = sequence.request.plan
            for correction in plan.corrections:
                if c := dose(correction, plan, phase, sequence.openness):
                    column = columns.setdefault(correction, [0.0] * num_tokens)
                    column[first:end] = [c] * (end - first)
        doses: dict[Site, list[Dose]] = {}
        for correction, column in columns.items():
            device = self._devices[correction.site.layer]
            c_column = torch.tensor(column, dtype=self._dtype, device=device)[:, None]
            doses.setdefault(correction.site, []).append((c_column, _on(device, correction.edit)))
        return doses


def _on(device: torch.device, edit: Edit) -> Edit:
    """Tensors of a plan are on the model's first device, a block may be on another."""
    return replace(edit, **{field.name: getattr(edit, field.name).to(device) for field in fields(edit)})


Span = tuple[Sequence, Phase, int, int]
"""Packed tokens first .. end - 1 belong to one sequence in one phase."""


def _spans(batch: Batch, num_rows: int) -> list[Span]:
    spans: list[Span] = [(sequence, "completion", row, row + 1) for row, sequence in enumerate(batch.rows)]
    first = num_rows
    for chunk in batch.chunks:
        spans.append((chunk.sequence, "prompt", first, first + chunk.length))
        first += chunk.length
    return spans


def _lens_layers(batch: Batch) -> set[int]:
    plans = (sequence.request.plan for sequence in batch.rows)
    return {plan.detector.lens.layer for plan in plans if plan.measures and plan.detector}
