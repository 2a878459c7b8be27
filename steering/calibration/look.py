"""Look: test questions, asked once. Every contender in one table, each against the plain model (METHODS 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steering.calibration.choose import Guard, guard
from steering.calibration.data import GUARDS, PRESSURED
from steering.contrast.item import Item, Kind
from steering.contrast.source import Source
from steering.contrast.splits import Split
from steering.evaluation.core import Generate, Graded, column, evaluate, questions
from steering.evaluation.report import markdown_table, points, share
from steering.evaluation.stats import Difference, Interval, holm, mcnemar, mean_interval, paired_difference

NUM_TASKS = 300
"""In-context tasks, and things only the user knows."""

Items = Mapping[Kind, Sequence[Item]]


@dataclass(frozen=True)
class Outcome:
    """What one contender does to answers of the test."""

    name: str
    truth: Mapping[Kind, Interval]
    """Under each kind of pressure."""
    change: Mapping[Kind, Difference]
    """Of it, against the plain model."""
    p: Mapping[Kind, float]
    """McNemar's, one item a question."""
    guards: Mapping[Kind, Guard]
    fired: Mapping[Kind, float]
    """Share of answers in which a gate opened."""

    @property
    def holds(self) -> bool:
        return all(one.holds for one in self.guards.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "truth": {kind: [i.estimate, i.low, i.high] for kind, i in self.truth.items()},
            "change": {kind: [d.estimate, d.low, d.high] for kind, d in self.change.items()},
            "p": dict(self.p),
            "guards": {kind: [g.off, g.change.estimate, g.change.bound, g.holds] for kind, g in self.guards.items()},
            "fired": dict(self.fired),
        }


def look_items(source: Source, split: Split, seed: int) -> dict[Kind, list[Item]]:
    """One item a question and kind, in phrasings that were calibrated on."""
    by_kind: dict[Kind, list[Item]] = {
        kind: source.items(kind, split, seed=seed, phrasings=source.phrasings) for kind in (*PRESSURED, *GUARDS)
    }
    return by_kind | {
        "in_context": source.in_context_items(NUM_TASKS, split, seed),
        "uptake": source.uptake_items(NUM_TASKS, split, seed),
    }


def look(items: Items, off: Generate, contenders: Mapping[str, Generate]) -> list[Outcome]:
    """The plain model first, then the contenders in their order."""
    plain = {kind: evaluate(some, off) for kind, some in items.items()}
    asked = {
        name: {kind: evaluate(some, generate) for kind, some in items.items()} for name, generate in contenders.items()
    }
    return [_outcome(name, answers, plain) for name, answers in {"off": plain, **asked}.items()]


def adjusted(outcomes: Sequence[Outcome], corrections: Sequence[str]) -> dict[str, float]:
    """Contender -> the larger of its p under the two kinds of pressure, by Holm over the corrections taken to test."""
    worst = [max(one.p.values()) for one in outcomes if one.name in corrections]
    names = [one.name for one in outcomes if one.name in corrections]
    return dict(zip(names, holm(worst), strict=True))


def effect_table(outcomes: Sequence[Outcome]) -> str:
    header = [cell for kind in outcomes[0].truth for cell in (f"true, {kind}", "change")]
    rows = []
    for one in outcomes:
        cells = [cell for kind, i in one.truth.items() for cell in (share(i), points(one.change[kind].estimate))]
        rows.append((one.name, *cells, f"{max(one.p.values()):.2g}"))
    return markdown_table(("", *header, "McNemar p"), rows)


def most_truth(outcomes: Sequence[Outcome]) -> str:
    """Of those whose guards hold, the one under which most of the weaker kind is true. The first, off, harms nothing,
    even if the questions are too few to show it."""
    unharmed = [outcomes[0], *(one for one in outcomes[1:] if one.holds)]
    return max(unharmed, key=lambda one: min(i.estimate for i in one.truth.values())).name


def guard_table(outcomes: Sequence[Outcome]) -> str:
    """Lower bounds of the change, in points; those below their margin in bold."""
    rows = []
    for one in outcomes[1:]:
        bounds = [(points(g.change.bound), g.holds) for g in one.guards.values()]
        rows.append((one.name, *(bound if holds else f"**{bound}**" for bound, holds in bounds)))
    return markdown_table(("", *outcomes[0].guards), rows)


def _outcome(name: str, answers: Mapping[Kind, list[Graded]], plain: Mapping[Kind, list[Graded]]) -> Outcome:
    on, off = ({kind: column(graded[kind], lambda g: g.is_true) for kind in PRESSURED} for graded in (answers, plain))
    clusters = {kind: questions(answers[kind]) for kind in PRESSURED}
    return Outcome(
        name,
        {kind: mean_interval(on[kind], clusters[kind]) for kind in PRESSURED},
        {kind: paired_difference(on[kind], off[kind], clusters[kind]) for kind in PRESSURED},
        {kind: mcnemar(on[kind], off[kind]) for kind in PRESSURED},
        {kind: guard(answers[kind], plain[kind]) for kind in answers if kind not in PRESSURED},
        {kind: float(column(graded, lambda g: g.fired).mean()) for kind, graded in answers.items()},
    )
