"""A table for terminals: plain when printed, coloured where rich prints it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable

HEAT = ("grey93", "khaki1", "gold1", "orange1", "red1")
"""Of rich's colours, from nothing to all."""


@dataclass(frozen=True)
class Row:
    cells: tuple[str, ...]
    heat: float | None
    """0 to 1, the colour of the row's first cell; None for none."""
    fired: bool
    """Whether the gate opened here."""


@dataclass(frozen=True)
class Table:
    """`print(table)` or `str(table)`; `rich.print(table)` in colours. In a notebook it shows itself."""

    header: tuple[str, ...]
    rows: Sequence[Row]

    def __str__(self) -> str:
        lines = [(*self.header, ""), *((*row.cells, "*" if row.fired else "") for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        padded = (
            "  ".join(cell.ljust(width) for cell, width in zip(line, [*widths, 1], strict=True)) for line in lines
        )
        return "\n".join(line.rstrip() for line in padded)

    __repr__ = __str__

    def __rich__(self) -> RichTable:
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(*self.header)
        for row in self.rows:
            first, *others = row.cells
            cells = [Text(first, style=_style(row)), *map(Text, others)]
            table.add_row(*cells)
        return table


def _style(row: Row) -> str:
    if row.heat is None:
        return ""
    colour = HEAT[min(int(row.heat * len(HEAT)), len(HEAT) - 1)]
    return f"{'bold ' if row.fired else ''}black on {colour}"
