"""Report: what the doctor found, for people and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from steering.calibration.doctor.agreement import Check, Summary, Tolerance, summarise


@dataclass(frozen=True)
class Report:
    """One examination."""

    model: str
    facts: Mapping[str, Any]
    tolerance: Tolerance
    checks: Sequence[Check]
    seconds: float

    @property
    def agrees(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)


def to_json(report: Report) -> str:
    """One object; numbers that are not finite become null."""
    document = {
        "model": report.model,
        "agrees": report.agrees,
        "seconds": round(report.seconds, 1),
        "facts": dict(report.facts),
        "tolerance": asdict(report.tolerance),
        "checks": [_finite(asdict(check)) for check in report.checks],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_report(report: Report, console: Console) -> None:
    """Facts, one line per kind of check, and the verdict; failures name site and layer."""
    console.print(_facts_table(report.facts))
    summaries = summarise(report.checks)
    console.print(_checks_table(summaries, report))
    for failure in failures(summaries):
        console.print(f"[red]{failure}[/red]")
    verdict = "[green]agrees[/green]" if report.agrees else "[red]does not agree[/red]"
    console.print(f"{report.model} {verdict} with nnsight and tuned-lens ({report.seconds:.0f} s).")


def failures(summaries: Sequence[Summary]) -> list[str]:
    """One line per kind of check that failed."""
    return [_failure(summary) for summary in summaries if not summary.worst.passed]


def _failure(summary: Summary) -> str:
    worst = summary.worst
    found = f" relative difference {worst.difference.relative:.2g}" if worst.difference else ""
    others = f" (layers {', '.join(map(str, summary.failed_layers))})" if len(summary.failed_layers) > 1 else ""
    note = f" {worst.note}" if worst.note else ""
    return f"FAILED {summary.section}, {_place(worst)}{others}:{found}{note}"


def _place(check: Check) -> str:
    return check.what if check.layer is None else f"{check.what}.{check.layer}"


def _facts_table(facts: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(f"[bold]{name.replace('_', ' ')}[/bold]", _fact(value))
    return table


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_span(layers)}" for name, layers in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return {True: "yes", False: "no", None: "none"}[value] if value in (True, False, None) else str(value)


def _span(layers: list[int]) -> str:
    if layers == list(range(len(layers))) and layers:
        return f"0..{layers[-1]}"
    return ", ".join(map(str, layers)) or "none"


def _checks_table(summaries: Sequence[Summary], report: Report) -> Table:
    tolerance = report.tolerance
    whom = "every token" if tolerance.share == 1 else f"{tolerance.share:.0%} of the tokens"
    caption = f"tolerance {tolerance.relative:g} for {whom}; tokens within {tolerance.tie:g} nats are a tie"
    table = Table(caption=caption, caption_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "", "layer", "max abs", "max rel", ""):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for summary in summaries:
        worst = summary.worst
        numbers = ["", ""]
        if worst.difference is not None:
            numbers = [f"{worst.difference.absolute:.1e}", f"{worst.difference.relative:.1e}"]
        layer = "" if worst.layer is None else str(worst.layer)
        note = f", {worst.note}" if worst.note else ""
        verdict = f"[green]ok[/green]{note}" if worst.passed else "[red]FAILED[/red]"
        table.add_row(summary.section, summary.what, layer, *numbers, verdict)
    return table
