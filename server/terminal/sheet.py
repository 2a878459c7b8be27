"""A sheet: words in coloured cells, as it is printed, and written as a picture, a page or a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from server.terminal.screen import printable
from steering.evaluation.html_report import page

Colour = tuple[int, int, int]
TRUTH, CLAIM, DRIFT = (95, 165, 217), (226, 120, 64), (239, 174, 69)
PAPER = (255, 255, 255)
CELL, SIDE = 11, 9
"""Characters of a cell and of a row's name."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would take for one, were it the first character of a text."""


@dataclass(frozen=True)
class Cell:
    text: str
    value: float
    """0 to 1, how strong its colour is; below 0 it has the other colour."""


@dataclass(frozen=True)
class Sheet:
    title: str
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    """Name and cells, as many each as there are columns."""
    columns: tuple[str, ...]
    scale: str
    """What the colours say."""
    diverging: bool
    """Whether values go below 0."""
    header: tuple[str, ...]
    records: tuple[tuple[str | float | int, ...], ...]
    """All that is known, a line a record."""


def colour_of(value: float, *, diverging: bool) -> Colour | None:
    """None: none to be seen."""
    strength = min(1.0, abs(value))
    if strength < 0.02:
        return None
    full = (TRUTH if value > 0 else CLAIM) if diverging else DRIFT
    red, green, blue = (round(p + (c - p) * strength) for p, c in zip(PAPER, full, strict=True))
    return red, green, blue


def shaded(text: str, value: float, *, diverging: bool) -> Text:
    colour = colour_of(value, diverging=diverging)
    return Text(printable(text), "" if colour is None else f"black on rgb({colour[0]},{colour[1]},{colour[2]})")


def print_sheet(sheet: Sheet, console: Console) -> None:
    """As many of the last columns as there is room for."""
    room = max(1, (console.width - SIDE) // (CELL + 1)) if console.is_terminal else len(sheet.columns)
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", justify="right", style="dim", width=SIDE if console.is_terminal else None)
    for name in sheet.columns[-room:]:
        table.add_column(Text(_short(name)), justify="center", no_wrap=True)
    for name, cells in sheet.rows:
        words = (
            shaded(_short(cell.text).center(CELL), cell.value, diverging=sheet.diverging) for cell in cells[-room:]
        )
        table.add_row(name, *words)
    console.print(table)
    left = len(sheet.columns) - room
    note = f"; {left} earlier tokens have no room here, --out has them" if left > 0 else ""
    console.print(Text(f"{sheet.scale}{note}", "dim"), soft_wrap=True)


def write_sheet(sheet: Sheet, path: Path) -> None:
    """By the ending of its name. Raises `typer.BadParameter` for one that is not known."""
    kind = path.suffix.lower()
    if kind == ".csv":
        path.write_text(as_csv(sheet), encoding="utf-8", newline="")
    elif kind == ".html":
        path.write_text(as_html(sheet), encoding="utf-8")
    else:
        check_out(path)
        _draw(sheet, path)


def check_out(path: Path | None) -> None:
    """Before any work is done."""
    if path is None or path.suffix.lower() in (".csv", ".html"):
        return
    if path.suffix.lower() != ".png":
        raise typer.BadParameter(f"{path.name}: a file ends in .png, .html or .csv.", param_hint="--out")
    if find_spec("matplotlib") is None:
        raise typer.BadParameter('a .png needs matplotlib: pip install "unsway[calibrate]"', param_hint="--out")


def as_csv(sheet: Sheet) -> str:
    """Texts that a spreadsheet would run as formulas begin with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(map(_harmless, sheet.header))
    writer.writerows([_harmless(cell) for cell in record] for record in sheet.records)
    return out.getvalue()


def _harmless(cell: str | float | int) -> str | float | int:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def as_html(sheet: Sheet) -> str:
    """One file that loads nothing."""
    head = "".join(f"<th>{escape(visible(name))}</th>" for name in sheet.columns)
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(_html_cells(sheet, cells))}</tr>" for name, cells in sheet.rows
    )
    title, scale = escape(sheet.title), escape(sheet.scale)
    return page(
        sheet.title,
        f'<h1>{title}</h1><table><tr><th></th>{head}</tr>{body}</table><p class="note">{scale}</p>',
    )


def _html_cells(sheet: Sheet, cells: Sequence[Cell]) -> Iterator[str]:
    for cell in cells:
        colour = colour_of(cell.value, diverging=sheet.diverging)
        style = "" if colour is None else f' style="color:#111;background:rgb{colour}"'
        yield f"<td{style}>{escape(visible(cell.text))}</td>"


def _draw(sheet: Sheet, path: Path) -> None:
    from steering.calibration.plots import labelled_grid

    names, rows = [name for name, _ in sheet.rows], [cells for _, cells in sheet.rows]
    figure = labelled_grid(
        [[cell.value for cell in cells] for cells in rows],
        [[visible(cell.text) for cell in cells] for cells in rows],
        names,
        [visible(name) for name in sheet.columns],
        caption=f"{sheet.title}\n{sheet.scale}",
        diverging=sheet.diverging,
    )
    figure.savefig(path, dpi=144)


def visible(token: str) -> str:
    """A token so that it can be seen."""
    shown = printable(token).replace("\n", "⏎").replace("\t", "⇥")
    return shown.strip() or "␣" * max(1, len(shown))


def _short(text: str) -> str:
    word = visible(text)
    return word if len(word) <= CELL else f"{word[: CELL - 1]}…"
