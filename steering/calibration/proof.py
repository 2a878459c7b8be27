"""Proof: what became of one kind of correction, and what a pack says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from steering.calibration.candidate import Corrections, Variant
from steering.calibration.card import development_rows
from steering.calibration.nulls import NullTest
from steering.calibration.search import NULLS_AT_ONCE, Search, Winner
from steering.plan import Plan

Evidence = dict[str, Any]


@dataclass(frozen=True)
class Proof:
    """A correction whose guards hold on development questions, held against random units."""

    plan: Plan
    null: NullTest
    random: Plan
    """Random units in the place of those found: of those tried, the ones that do neither best nor worst."""
    evidence: Evidence
    """JSON."""


def prove(
    search: Search,
    winner: Winner,
    corrections: Corrections,
    sets: Sequence[tuple[Any, ...]],
    options: Sequence[Variant],
    *,
    at_once: int = NULLS_AT_ONCE,
) -> Proof:
    """sets: random units of the same number from the same blocks, so many tried at once; options: the variants that the
    winner was chosen among, of which random ones have those behind the same kind of gate."""
    variant = winner.candidate.variant
    same = [v for v in options if v.waits == variant.waits and v.threshold == variant.threshold]
    null = search.against_random(winner.candidate, corrections, sets, same, at_once=at_once)
    search.log(f"random units: {null.num_reaching} of {len(null.null)} reach {null.observed:.3f}, p {null.p:.3f}")
    effects = winner.trial.effects
    return Proof(
        search.plan(winner.candidate, corrections),
        null,
        search.plan(replace(winner.candidate, units=_middling(sets, null)), corrections),
        {
            "chosen": str(winner.candidate),
            "num_candidates": winner.num_candidates,
            "trials": winner.ranking,
            "development": development_rows(search.bench, winner.trial),
            "side_effects": asdict(effects) if effects else {},
            "curve": search.curve(winner.candidate, corrections),
            "nulls": {**asdict(null), "p": null.p, "smallest_p": null.smallest_p, "median": null.median},
        },
    )


def _middling(sets: Sequence[tuple[Any, ...]], null: NullTest) -> tuple[Any, ...]:
    order = sorted(range(len(null.null)), key=null.null.__getitem__)
    return sets[order[len(order) // 2]]
