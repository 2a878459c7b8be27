"""Results: outcomes of a suite under several conditions -> means with intervals, differences, disagreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steering.evaluation.protocol import Heatmap, Measure, Outcome, Suite
from steering.evaluation.stats import Difference, Interval, mean_interval, paired_difference

JUDGE = "judge"
DISAGREE = 0.5
"""Two graders disagree about a question where their values are this far apart, or further."""


@dataclass(frozen=True)
class Cell:
    """One number."""

    interval: Interval
    n: int
    """Questions it is the mean of."""
    difference: Difference | None
    """To the first condition, over the questions that have a value in both."""


@dataclass(frozen=True)
class Row:
    measure: Measure
    grader: str
    part: str
    """Which answers: empty for all, or those that `fired` or `did not fire`."""
    cells: Mapping[str, Cell | None]
    """By condition."""


@dataclass(frozen=True)
class Silence:
    """What of a condition is in no number."""

    unanswered: int
    """Questions that could not be asked to their end."""
    reason: str | None
    """Of the first of them."""
    unjudged: int
    """Questions that the judge gave no verdict on."""
    cut: int
    """Replies that end at the length limit: these do count."""
    fired: int
    """Questions in which the gate opened: these do count."""


@dataclass(frozen=True)
class SuiteResult:
    name: str
    title: str
    num_questions: int
    rows: tuple[Row, ...]
    disagreement: Mapping[str, Mapping[str, float]]
    """Condition -> grader -> share of what it grades otherwise than the first grader does."""
    silence: Mapping[str, Silence]
    heatmaps: Mapping[str, Heatmap]


def tabulate(suite: Suite, outcomes: Mapping[str, Sequence[Outcome]]) -> SuiteResult:
    """outcomes: condition -> the same questions in the same order; differences are to the first condition."""
    graders = list(dict.fromkeys(g for column in outcomes.values() for outcome in column for g in outcome.grades))
    rows = [
        row
        for measure in suite.measures
        for grader in graders
        for part in ("", *(("fired", "did not fire") if suite.capability else ()))
        if (row := _row(measure, grader, part, outcomes))
    ]
    return SuiteResult(
        name=suite.name,
        title=suite.title,
        num_questions=max(map(len, outcomes.values())),
        rows=tuple(rows),
        disagreement={name: _disagreement(column, graders) for name, column in outcomes.items()},
        silence={name: _silence(column) for name, column in outcomes.items()},
        heatmaps=_heatmaps(suite, outcomes),
    )


def _row(measure: Measure, grader: str, part: str, outcomes: Mapping[str, Sequence[Outcome]]) -> Row | None:
    """None where there is nothing to show: a grader without this measure; a part where nothing fired."""
    columns = {name: _values(column, measure.name, grader, part) for name, column in outcomes.items()}
    clusters = [outcome.question.cluster for outcome in next(iter(outcomes.values()))]
    if part and not any(outcome.fired for column in outcomes.values() for outcome in column):
        return None
    first = next(iter(columns.values()))
    if part:  # the same questions as in the first condition, where nothing fires
        first = _values(next(iter(outcomes.values())), measure.name, grader, "")
    cells = {
        name: _cell(measure, values, None if name == next(iter(columns)) else first, clusters)
        for name, values in columns.items()
    }
    return Row(measure, grader, part, cells) if any(cells.values()) else None


Values = Sequence[float | None]


def _values(column: Sequence[Outcome], measure: str, grader: str, part: str) -> Values:
    """None for a question that does not count here."""
    wanted = {"": (True, False), "fired": (True,), "did not fire": (False,)}[part]
    return [
        outcome.grades.get(grader, {}).get(measure) if outcome.error is None and outcome.fired in wanted else None
        for outcome in column
    ]


def _cell(measure: Measure, values: Values, first: Values | None, clusters: Sequence[str]) -> Cell | None:
    known = [i for i, value in enumerate(values) if value is not None]
    if not known:
        return None
    own = np.array([values[i] for i in known], dtype=np.float64)
    interval = mean_interval(own, [clusters[i] for i in known], extremes=measure.extremes)
    both = [i for i in known if first is not None and first[i] is not None]
    if first is None or not both:
        return Cell(interval, len(known), None)
    on, off = (np.array([side[i] for i in both], dtype=np.float64) for side in (values, first))
    difference = paired_difference(on, off, [clusters[i] for i in both], extremes=measure.extremes)
    return Cell(interval, len(known), difference)


def _disagreement(column: Sequence[Outcome], graders: Sequence[str]) -> dict[str, float]:
    shares = {}
    for grader in graders[1:]:
        apart = [
            abs(value - other) >= DISAGREE
            for outcome in column
            if outcome.error is None
            for measure, value in outcome.grades.get(graders[0], {}).items()
            if value is not None and (other := outcome.grades.get(grader, {}).get(measure)) is not None
        ]
        if apart:
            shares[grader] = sum(apart) / len(apart)
    return shares


def _silence(column: Sequence[Outcome]) -> Silence:
    reasons = [outcome.error for outcome in column if outcome.error]
    judged = [outcome.grades[JUDGE] for outcome in column if JUDGE in outcome.grades and outcome.error is None]
    return Silence(
        unanswered=len(reasons),
        reason=next(iter(reasons), None),
        unjudged=sum(all(value is None for value in grades.values()) for grades in judged),
        cut=sum(reply.cut for outcome in column for reply in outcome.replies),
        fired=sum(outcome.fired for outcome in column),
    )


def _heatmaps(suite: Suite, outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, Heatmap]:
    found: dict[str, Heatmap] = {}
    for name, column in outcomes.items():
        whole = [outcome for outcome in column if outcome.error is None]
        drawn = suite.heatmap and suite.heatmap([o.question for o in whole], [o.replies for o in whole])
        found |= {name: drawn} if drawn else {}
    return found
