"""Progress of a long command: a bar for each part on a terminal, lines elsewhere, an object a line for programs."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import typer

if TYPE_CHECKING:
    import rich.progress

Form = Literal["auto", "json"]
Option = Annotated[
    Form,
    typer.Option("--progress", help="auto: bars on a terminal, lines elsewhere; json: an object a line, for programs."),
]

EVERY = 1.0
"""Seconds between two objects of a stage, at least."""


class Reporter(Protocol):
    """Something to report to, and to log lines through."""

    def start(self, what: str, total: int) -> None:
        """A stage of about so many steps begins."""

    def advance(self) -> None: ...

    def log(self, line: str) -> None: ...


class _Lines:
    """One for the beginning of a stage, then one for each tenth of it."""

    def start(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        typer.echo(f"{what}: about {total}")

    def advance(self) -> None:
        before, self._done = self._done, self._done + 1
        tenths = 10 * self._done // max(1, self._total)
        if 10 * before // max(1, self._total) < tenths <= 10:
            typer.echo(f"{self._what}: {10 * tenths} %")

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


def later(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


class JsonLines:
    """`{"stage", "done", "total", "unit", "eta_s", "message"}`, not more than one a second, and `{"log": LINE}`.

    Steps that come in a burst, as the answers of a batch do, are told together.
    """

    def __init__(
        self,
        unit: str,
        write: Callable[[str], None] = typer.echo,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], None] = later,
    ) -> None:
        self._unit, self._write, self._clock, self._later = unit, write, clock, later
        self._lock, self._untold = threading.Lock(), False

    def start(self, what: str, total: int) -> None:
        with self._lock:
            self._what, self._total, self._done, self._begun = what, total, 0, self._clock()
            self._tell()

    def advance(self) -> None:
        with self._lock:
            self._done += 1
            if self._done == self._total:
                self._tell()
            elif not self._untold:
                self._untold = True
                self._later(EVERY, self._catch_up)

    def log(self, line: str) -> None:
        with self._lock:
            for part in line.splitlines() or [""]:
                self._write(json.dumps({"log": part}))

    def _catch_up(self) -> None:
        with self._lock:
            if self._untold:
                self._tell()

    def _tell(self) -> None:
        self._untold = False
        total = max(self._total, self._done)  # which was a guess
        told: dict[str, object] = {"stage": self._what, "done": self._done, "total": total, "unit": self._unit}
        if self._done:
            told["eta_s"] = round((total - self._done) * (self._clock() - self._begun) / self._done, 1)
        told["message"] = f"{self._what}: {self._done} of about {total} {self._unit}"
        self._write(json.dumps(told))


@contextmanager
def reported(form: Form, unit: str) -> Iterator[Reporter]:
    """unit: what a step is, in the plural."""
    if form == "json":
        yield JsonLines(unit)
        return
    if not sys.stdout.isatty():
        yield _Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}", markup=False)
    with Progress(text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bars:
        yield _Bars(bars)
