"""Contenders take turns: whatever slows the machine down meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

Contender = Callable[[], float]
"""Runs once, and returns the seconds it took."""
Times = dict[str, list[float]]
"""Contender -> its seconds, round by round."""

LEAST_ROUNDS = 2
"""Are run however late it is."""


@dataclass(frozen=True)
class Contest:
    """Contenders that do the same work, and who is compared with whom."""

    contenders: Mapping[str, Contender]
    tokens: int
    """That each puts out in one turn."""
    pairs: tuple[tuple[str, str], ...]
    """(contender, the one it is compared with)"""
    notes: tuple[str, ...] = ()
    """What a reader has to know: who is absent, and why."""

    def times(self, rounds: int, deadline: float | None = None) -> Times:
        """One unmeasured round, then `rounds`, each in the other order; fewer where `time.monotonic` passes the
        deadline."""
        times: Times = {name: [] for name in self.contenders}
        for run in self.contenders.values():
            run()
        for i in _rounds(rounds, deadline):
            for name in list(self.contenders) if i % 2 == 0 else reversed(self.contenders):
                times[name].append(self.contenders[name]())
        return times


@dataclass(frozen=True)
class Observation:
    """One run that gives several figures, none of them a speed."""

    observe: Callable[[], Mapping[str, float]]
    pairs: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()
    tokens: int = 0

    def times(self, rounds: int, deadline: float | None = None) -> Times:
        self.observe()
        seen = [self.observe() for _ in _rounds(rounds, deadline)]
        return {name: [one[name] for one in seen] for name in seen[0]}


@dataclass(frozen=True)
class Cell:
    """One contest at one size, made when its turn has come and unmade after it."""

    section: str
    shape: str
    batch: int
    """Rows, or clients."""
    context: int
    """Tokens of a prompt and its answer."""
    open: Callable[[], AbstractContextManager[Contest | Observation]] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.section}, {self.shape}, batch {self.batch}, context {self.context}"


def timed(run: Callable[[], object]) -> Contender:
    def contender() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return contender


def _rounds(rounds: int, deadline: float | None) -> Iterator[int]:
    for i in range(rounds):
        if deadline is not None and i >= LEAST_ROUNDS and time.monotonic() > deadline:
            return
        yield i


def deadlines(minutes: float | None, num_cells: int) -> Iterator[float | None]:
    """When each cell has to be done: what is left is shared evenly among those to come."""
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for i in range(num_cells):
        now = time.monotonic()
        yield None if end is None else now + max(0.0, end - now) / (num_cells - i)
