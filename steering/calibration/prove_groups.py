"""Prove groups: head groups set to what they put out on neutral questions, grown by effect and cut from a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steering.calibration.candidate import Candidate, Corrections, Variant, variants
from steering.calibration.choose import grow
from steering.calibration.data import pressured_items
from steering.calibration.find_detector import Found
from steering.calibration.head_groups import groups_from
from steering.calibration.localisation import Localisation, Unit, top_rows
from steering.calibration.locate import feeding, locate
from steering.calibration.nulls import enough_others, random_sets
from steering.calibration.proof import Evidence, Proof, prove
from steering.calibration.search import Search
from steering.errors import NothingToLocalise
from steering.evaluation.report import markdown_table

MAX_GROUPS = 8


def pool_of(search: Search) -> list[Unit]:
    """Groups that may be chosen: above the lens, or in the upper half where nothing is watched."""
    layout = search.asking.model.layout
    return groups_from(layout, search.detector.lens.layer if search.detector else layout.num_layers // 2)


def localise(search: Search, kept: Path | None) -> tuple[Evidence, Localisation | None]:
    """What patching every group of the model does; None where no pair caves."""
    try:
        total, direct = locate(search.asking.model, search.source, search.seed, kept)
    except NothingToLocalise as nothing:
        search.log(str(nothing))
        return {}, None
    rows = top_rows(total, direct)
    search.log(markdown_table(("group", "I, total", "per example", "I, direct"), rows))
    return {"localisation": {"total": total.as_json(), "direct": direct.as_json(), "top": rows}}, total


def prove_groups(
    search: Search, found: Found | None, located: Localisation | None, corrections: Corrections, num_nulls: int
) -> tuple[Proof | None, Evidence]:
    """What was proved, if anything, and what was seen on the way there. corrections: set groups to their means."""
    pool = pool_of(search)
    options = variants(found.thresholds if found else ())
    grown, growth = _grown(search, pool, corrections, options[0])
    sets = [*grown, *(feeding(located, pool) if located else [])]
    every = list(dict.fromkeys(tuple(sorted(units)) for units in sets if enough_others(pool, units)))
    winner = search.best([Candidate(units, v) for units in every for v in options], corrections, "groups")
    if winner is None:
        return None, growth
    random = random_sets(pool, winner.candidate.units, search.seed, num_nulls)
    return prove(search, winner, corrections, random, options), growth


def _grown(
    search: Search, pool: Sequence[Unit], corrections: Corrections, variant: Variant
) -> tuple[list[tuple[Unit, ...]], Evidence]:
    """Nested sets, grown by the probability of the truth that they restore on `fit` questions."""
    items = pressured_items(search.source, "fit", seed=search.seed + 1)

    def restored(sets: Sequence[tuple[Unit, ...]]) -> list[float]:
        plans = [search.plan(Candidate(units, variant), corrections) for units in sets]
        found = search.asking.probabilities([(plan, items) for plan in plans])
        search.progress.advance()
        return found

    search.progress.start("growing sets of groups", min(MAX_GROUPS, len(pool)))
    scored = grow(pool, restored, MAX_GROUPS)
    rows = [(" ".join(map(str, units)), f"{p:.3f}") for units, p in scored]
    search.log(markdown_table(("groups", "P(truth)"), rows))
    return [units for units, _ in scored], {"search": {"n": len(items), "sets": rows}}
