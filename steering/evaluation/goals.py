"""Goals: `--fail-under METRIC=VALUE`, and what a build does with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from steering.errors import EvaluationError
from steering.evaluation.protocol import Suite
from steering.evaluation.results import Row, SuiteResult


@dataclass(frozen=True)
class Goal:
    """A mean that must not be below, or above, a value."""

    suite: str
    measure: str
    value: float
    kind: Literal["under", "over"]

    def missed(self, results: Sequence[SuiteResult], conditions: Sequence[str]) -> list[str]:
        """One line for each condition that misses it, as does one without that number. The first grader counts."""
        rows = [row for result in results if result.name == self.suite for row in result.rows if self._is_of(row)]
        metric, lines = f"{self.suite}.{self.measure}", []
        for name in conditions:
            cell = rows[0].cells[name] if rows else None
            if cell is None:
                lines.append(f"{metric} of {name} could not be measured.")
            elif self._misses(found := cell.interval.estimate):
                lines.append(f"{metric} of {name} is {found:.3f}, {self.kind} {self.value:g}.")
        return lines

    def _misses(self, found: float) -> bool:
        return found < self.value if self.kind == "under" else found > self.value

    def _is_of(self, row: Row) -> bool:
        return row.measure.name == self.measure and not row.part


def parse_goal(text: str, suites: Sequence[Suite], kind: Literal["under", "over"]) -> Goal:
    """`suite.measure=0.7`, or `measure=0.7` where only one suite has it. Raises `EvaluationError`."""
    metric, sign, value = text.partition("=")
    try:
        threshold = float(value)
    except ValueError:
        threshold = float("nan")
    if not sign or threshold != threshold:
        raise EvaluationError(f"--fail-{kind} {text[:60]!r}: expected METRIC=VALUE, such as truthfulness=0.7.")
    all_metrics = [(suite.name, measure.name) for suite in suites for measure in suite.measures]
    wanted = [(s, m) for s, m in all_metrics if metric in (m, f"{s}.{m}")]
    if len(wanted) != 1:
        problem = "means several" if wanted else "is no metric of these suites"
        known = ", ".join(f"{s}.{m}" for s, m in wanted or all_metrics)
        raise EvaluationError(f"--fail-{kind}: {metric[:60]!r} {problem}: {known}.")
    return Goal(*wanted[0], threshold, kind)
