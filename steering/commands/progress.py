"""Progress of a long command: a bar for each part on a terminal, a line for each elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import rich.progress


class _Lines:
    def start(self, what: str, total: int) -> None:
        typer.echo(f"{what}: about {total}")

    def advance(self) -> None:
        pass

    def log(self, line: str) -> None:
        typer.echo(line)


class _Bars:
    """With the time that each part still takes."""

    def __init__(self, bars: rich.progress.Progress) -> None:
        self._bars = bars

    def start(self, what: str, total: int) -> None:
        self._task = self._bars.add_task(what, total=total)

    def advance(self) -> None:
        self._bars.advance(self._task)

    def log(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bars() -> Iterator[_Lines | _Bars]:
    """Something to report to, and to log lines through."""
    if not sys.stdout.isatty():
        yield _Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}", markup=False)
    with Progress(text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bars:
        yield _Bars(bars)
