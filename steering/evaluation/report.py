"""Report: figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from steering.evaluation.stats import Interval


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded, so that it reads well unrendered too."""
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"every row needs {len(header)} cells")
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    rule = ["-" * width for width in widths]
    lines = (
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, rule, *rows)
    )
    return "\n".join(f"| {line} |" for line in lines)


def share(interval: Interval) -> str:
    """`.79 [.71, .86]`: a rate."""
    return f"{_short(interval.estimate)} [{_short(interval.low)}, {_short(interval.high)}]"


def points(value: float) -> str:
    """`+12.3`: a difference of rates, in points."""
    return f"{100 * value:+.1f}"


def _short(rate: float) -> str:
    return f"{rate:.2f}".removeprefix("0") if rate >= 0 else f"{rate:.2f}"
