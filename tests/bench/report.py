"""What a run found: one table, one JSON file, one picture."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.table import Table

from steering.evaluation.stats import Interval
from tests.bench.goals import goal
from tests.bench.ratios import Measured, median_interval, speed_ratio
from tests.bench.rounds import Cell, Contest, Observation, Times

COLOURS = {"met": "#1f6f5c", "not met": "#c2472f", "too few rounds": "#b08a2e", "": "#5a5a8c"}
PACKAGES = ("torch", "transformers")


def measured(cell: Cell, contest: Contest | Observation, times: Times) -> list[Measured]:
    """A line for each comparison, and one for each contender that is only compared with."""
    lines = []
    compared = {name for name, _ in contest.pairs}
    pairs = [*((name, "") for name in times if name not in compared), *contest.pairs]
    for name, to in pairs:
        speed = contest.tokens / statistics.median(times[name]) if isinstance(contest, Contest) else None
        ratio = _ratio(contest, times, name, to) if to else None
        aim = goal(name, to, cell.shape, cell.batch)
        place = cell.section, cell.shape, cell.batch, cell.context
        lines.append(Measured(*place, name, speed, to, ratio, len(times[name]), aim))
    return lines


def _ratio(contest: Contest | Observation, times: Times, name: str, to: str) -> Interval:
    if isinstance(contest, Contest):
        return speed_ratio(times, name, to)
    return median_interval([own / other for own, other in zip(times[name], times[to], strict=True)])


def table(lines: Iterable[Measured], title: str) -> Table:
    columns = ("section", "model", "batch", "context", "contender", "tokens/s", "against", "ratio", "95 %", "rounds",
               "goal", "")  # fmt: skip
    result = Table(*columns, title=title)
    for line in lines:
        result.add_row(*_cells(line))
    return result


def _cells(line: Measured) -> Iterator[str]:
    yield from (line.section, line.shape, str(line.batch), str(line.context), line.name)
    yield "" if line.speed is None else f"{line.speed:,.0f}"
    yield line.to
    yield "" if line.ratio is None else f"{line.ratio.estimate:.3f}"
    yield "" if line.ratio is None else f"{line.ratio.low:.3f} to {line.ratio.high:.3f}"
    yield from (str(line.rounds), str(line.goal or ""), line.verdict)


def document(lines: Iterable[Measured], options: Mapping[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    """As JSON: every line with its verdict, and what it was measured with."""
    machine = {"cpu": cpu_name(), "python": platform.python_version()}
    machine |= {package: metadata.version(package) for package in PACKAGES}
    results = [asdict(line) | {"verdict": line.verdict} for line in lines]
    return {"machine": machine, "options": dict(options), "notes": list(notes), "results": results}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")


def read_json(path: Path) -> tuple[list[Measured], list[str]]:
    """Lines and notes of a run before."""
    content = json.loads(path.read_text())
    return [_line(entry) for entry in content["results"]], content["notes"]


def _line(entry: Mapping[str, Any]) -> Measured:
    fields = {name: value for name, value in entry.items() if name != "verdict"}
    ratio = fields["ratio"] and Interval(**fields["ratio"])
    return Measured(**fields | {"ratio": ratio, "goal": goal(*(fields[k] for k in ("name", "to", "shape", "batch")))})


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def draw(path: Path, lines: Sequence[Measured]) -> None:
    """A panel a section: each ratio with its interval, and a tick where its goal is."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    sections: dict[str, list[Measured]] = {}
    for line in lines:
        if line.ratio is not None:
            sections.setdefault(line.section, []).append(line)
    heights = [len(rows) + 3 for rows in sections.values()] or [1]
    figure = Figure(figsize=(9.5, 0.6 + 0.2 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (section, rows) in zip(panels, sections.items(), strict=False):
        _panel(axes, section, rows)
    with mpl.rc_context({"svg.hashsalt": "unsway", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def _panel(axes: Any, section: str, rows: Sequence[Measured]) -> None:
    for y, line in enumerate(rows):
        assert line.ratio is not None
        axes.plot((line.ratio.low, line.ratio.high), (y, y), color=COLOURS[line.verdict], linewidth=2)
        axes.plot(line.ratio.estimate, y, "o", color=COLOURS[line.verdict], markersize=4)
        if line.goal:
            axes.plot(line.goal.bound, y, "|", color="#222222", markersize=9)
    labels = [f"{line.name} / {line.to}, {line.shape}, {line.batch}, {line.context}" for line in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=6)
    axes.set(title=section, ylim=(len(rows) - 0.5, -0.5))
    axes.axvline(1.0, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
