"""The report as one HTML file: tables and plots, nothing loaded from anywhere, no script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from steering.evaluation.protocol import Heatmap
from steering.evaluation.results import Cell, Row, SuiteResult
from steering.evaluation.suite_report import Report, cell_text, remarks

_WIDTH, _LABEL, _LINE = 720, 210, 18
"""Pixels: of a plot, of the names at its left, of a line."""
_COLOURS = ("#4e79a7", "#e15759", "#59a14f", "#b07aa1", "#f28e2b", "#76b7b2")
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #8884; text-align: left; vertical-align: top; }
svg { max-width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
.note { color: #8a8a8a; font-size: .9em; }
"""


def as_html(report: Report) -> str:
    return page("Evaluation", "\n".join(["<h1>Evaluation</h1>", _head(report), *map(_section, report.suites)]))


def page(title: str, body: str) -> str:
    """One HTML document that loads nothing."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>\n{body}\n</body></html>\n"
    )


def _head(report: Report) -> str:
    names = list(dict.fromkeys(key for identity in report.conditions.values() for key in identity))
    rows = [(key, *(identity.get(key, "") for identity in report.conditions.values())) for key in names]
    settings = ", ".join(f"{key} {value}" for key, value in report.settings.items())
    return _table(("", *report.conditions), rows) + f'<p class="note">{escape(settings)}</p>'


def _section(suite: SuiteResult) -> str:
    conditions = list(suite.silence)
    rows = [
        (
            f"{row.measure.name}: {row.measure.meaning}",
            ", ".join(filter(None, (row.grader, row.part))),
            *(cell_text(row, row.cells[name]) for name in conditions),
        )
        for row in suite.rows
    ]
    parts = [
        f"<h2>{escape(suite.name)}: {escape(suite.title)}</h2>",
        intervals_plot(suite),
        _table(("measure", "grader", *conditions), rows),
        "<ul>" + "".join(f"<li>{escape(remark)}</li>" for remark in remarks(suite)) + "</ul>",
        *(f"<h3>{escape(name)}</h3>{heatmap_plot(drawn)}" for name, drawn in suite.heatmaps.items()),
    ]
    return "\n".join(parts)


def intervals_plot(suite: SuiteResult) -> str:
    """A line for each measure and condition, of the first grader: its interval, and a dot at the mean."""
    rows = [row for row in suite.rows if not row.part and row.grader == suite.rows[0].grader]
    conditions, marks, y = list(suite.silence), list[str](), _LINE
    for row in rows:
        low, high = _scale(row)
        marks.append(_text(0, y, f"{row.measure.name} ({low:g} to {high:g})"))
        y += _LINE
        for name, cell in row.cells.items():
            colour = _COLOURS[conditions.index(name) % len(_COLOURS)]
            marks += _interval(name, cell, y, (low, high), colour)
            y += _LINE
        y += _LINE // 2
    return _svg(y, marks)


def heatmap_plot(drawn: Heatmap) -> str:
    """Blue above zero, red below; the last row at the top, as depth is drawn in the literature."""
    most = max((abs(value) for row in drawn.cells for value in row), default=0.0) or 1.0
    side = (_WIDTH - _LABEL) / len(drawn.columns)
    marks = [_text(0, _LINE, drawn.title)]
    y = 2 * _LINE
    for name, values in reversed(list(zip(drawn.rows, drawn.cells, strict=True))):
        marks.append(_text(0, y + 13, name))
        for column, value in enumerate(values):
            x, strength = _LABEL + column * side, abs(value) / most
            colour = "#2166ac" if value >= 0 else "#b2182b"
            marks.append(
                f'<rect x="{x:.1f}" y="{y}" width="{side:.1f}" height="{_LINE}" fill="{colour}" '
                f'fill-opacity="{strength:.2f}"><title>{escape(name)}, {escape(drawn.columns[column])}: '
                f"{value:+.2f}</title></rect>"
            )
        y += _LINE
    marks += [_text(_LABEL + i * side, y + 14, name) for i, name in enumerate(drawn.columns)]
    return _svg(y + _LINE, marks)


def _scale(row: Row) -> tuple[float, float]:
    if row.measure.extremes is not None:
        return row.measure.extremes
    highest = max(cell.interval.high for cell in row.cells.values() if cell)
    return min(0.0, *(cell.interval.low for cell in row.cells.values() if cell)), highest or 1.0


def _interval(name: str, cell: Cell | None, y: int, scale: tuple[float, float], colour: str) -> Iterator[str]:
    yield _text(12, y, name)
    if cell is None:
        return
    low, mean, high = (
        _LABEL + (_WIDTH - _LABEL - 8) * (value - scale[0]) / (scale[1] - scale[0])
        for value in (cell.interval.low, cell.interval.estimate, cell.interval.high)
    )
    yield f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="2"/>'
    yield f'<circle cx="{mean:.1f}" cy="{y - 4}" r="4" fill="{colour}"><title>{cell.interval}</title></circle>'


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y}">{escape(text)}</text>'


def _svg(height: int, marks: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img">{"".join(marks)}</svg>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
