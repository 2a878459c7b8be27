"""Reports of an evaluation: one JSON document, and the same as Markdown. `html_report` draws it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from steering.evaluation.published import PUBLISHED, Published
from steering.evaluation.report import markdown_table, points, share
from steering.evaluation.results import Cell, Row, SuiteResult
from steering.evaluation.stats import Interval

_ARROWS = {"higher": "higher is better", "lower": "lower is better", "neither": ""}


@dataclass(frozen=True)
class Report:
    """What was measured, of what."""

    conditions: Mapping[str, Mapping[str, str]]
    """Name -> identity of its backend."""
    settings: Mapping[str, Any]
    """Seed, limit, data: what repeats the run."""
    suites: Sequence[SuiteResult]

    def as_json(self) -> dict[str, Any]:
        return {
            "conditions": {name: dict(identity) for name, identity in self.conditions.items()},
            "settings": dict(self.settings),
            "suites": {suite.name: _suite_json(suite) for suite in self.suites},
            "published": [asdict(number) for suite in self.suites for number in published(suite)],
        }

    def as_markdown(self) -> str:
        return "\n\n".join(["# Evaluation", *self._head(), *(part for s in self.suites for part in _section(s))]) + "\n"

    def _head(self) -> Iterator[str]:
        names = list(dict.fromkeys(key for identity in self.conditions.values() for key in identity))
        rows = [(key, *(identity.get(key, "") for identity in self.conditions.values())) for key in names]
        yield markdown_table(("", *self.conditions), [tuple(cell.replace("\n", " ") for cell in row) for row in rows])
        settings = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        yield f"Settings: {settings}. Intervals are central 95 %, bootstrapped over questions."


def published(suite: SuiteResult) -> list[Published]:
    return [number for number in PUBLISHED if number.suite == suite.name]


def cell_text(row: Row, cell: Cell | None) -> str:
    """The mean with its interval, and the difference to the first condition."""
    if cell is None:
        return "-"
    text = number(row, cell.interval)
    if cell.difference is None:
        return text
    change = points(cell.difference.estimate) if is_rate(row) else f"{cell.difference.estimate:+.2f}"
    sure = "" if cell.difference.low <= 0 <= cell.difference.high else "*"
    return f"{text} ({change}{sure})"


def number(row: Row, interval: Interval) -> str:
    if is_rate(row):
        return share(interval)
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def is_rate(row: Row) -> bool:
    return row.measure.extremes in ((0.0, 1.0), (-1.0, 1.0))


def remarks(suite: SuiteResult) -> Iterator[str]:
    """What the numbers do not say: graders that disagree, what is in no number, what others found."""
    for name, graders in suite.disagreement.items():
        for grader, apart in graders.items():
            yield f"{name}: the grader '{grader}' disagrees on {100 * apart:.1f} % of what is graded."
    for name, silence in suite.silence.items():
        if silence.unanswered:
            yield f"{name}: {silence.unanswered} questions could not be asked ({silence.reason})"
        if silence.unjudged:
            yield f"{name}: the judge gave no verdict on {silence.unjudged} questions."
        if silence.cut:
            yield f"{name}: {silence.cut} replies were cut at the length limit."
        if silence.fired:
            yield f"{name}: the gate opened in {silence.fired} of {suite.num_questions} questions."
    for known in published(suite):
        changed = ", ".join(f"{what} {100 * value:.1f}" for what, value in known.tuned)
        yield f"Published: {known.model} {known.measure} {100 * known.plain:.1f}; {changed} ({known.source})."


def _section(suite: SuiteResult) -> Iterator[str]:
    yield f"## {suite.name}: {suite.title}"
    conditions = list(suite.silence)
    header = ("measure", "grader", "n", *conditions)
    yield markdown_table(header, [_cells(row, conditions) for row in suite.rows])
    meanings = dict.fromkeys((row.measure.name, row.measure.meaning, _ARROWS[row.measure.better]) for row in suite.rows)
    yield "\n".join(f"- `{name}`: {', '.join(filter(None, (meaning, arrow)))}" for name, meaning, arrow in meanings)
    if told := list(remarks(suite)):
        yield "\n".join(f"- {remark}" for remark in told)
    for name, drawn in suite.heatmaps.items():
        yield f"{name}: {drawn.title}"
        body = [(row, *(f"{v:+.1f}" for v in cells)) for row, cells in zip(drawn.rows, drawn.cells, strict=True)]
        yield markdown_table(("", *drawn.columns), body)


def _cells(row: Row, conditions: Sequence[str]) -> tuple[str, ...]:
    counts = {cell.n for cell in row.cells.values() if cell}
    n = "-".join(str(count) for count in sorted({min(counts), max(counts)}))
    grader = ", ".join(filter(None, (row.grader, row.part)))
    return (row.measure.name, grader, n, *(cell_text(row, row.cells[name]) for name in conditions))


def _suite_json(suite: SuiteResult) -> dict[str, Any]:
    return {
        "title": suite.title,
        "num_questions": suite.num_questions,
        "rows": [_row_json(row) for row in suite.rows],
        "disagreement": suite.disagreement,
        "silence": {name: asdict(silence) for name, silence in suite.silence.items()},
        "heatmaps": {name: asdict(drawn) for name, drawn in suite.heatmaps.items()},
    }


def _row_json(row: Row) -> dict[str, Any]:
    measure = row.measure
    return {
        "measure": measure.name,
        "meaning": measure.meaning,
        "better": measure.better,
        "grader": row.grader,
        "part": row.part,
        "cells": {name: cell and _cell_json(cell) for name, cell in row.cells.items()},
    }


def _cell_json(cell: Cell) -> dict[str, Any]:
    return {**asdict(cell.interval), "n": cell.n, "difference": cell.difference and asdict(cell.difference)}
