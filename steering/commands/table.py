"""Tables for people: as wide as the terminal; without one, a line a row."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_UNBOUNDED = 10_000


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Cells are shown as they are: no markup, nothing cut off."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else _UNBOUNDED).print(table)
