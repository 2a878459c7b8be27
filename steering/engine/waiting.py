"""Those that wait for a row, in the order in which they start."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator

from steering.engine.fairness import TokenCounter
from steering.engine.sequence import Sequence


class Waiting:
    """By priority, then those that were preempted, then by what its key was served so far, then by arrival.

    A key's sequences of one rank stand in a line of their own, by arrival, so only the heads of the first rank's lines
    are compared, however many stand behind them.
    """

    def __init__(self) -> None:
        self._ranks: dict[tuple[int, bool], dict[str, list[Sequence]]] = {}
        """(priority, never preempted) -> key -> its line. None is empty."""
        self._answers: Counter[str] = Counter()
        """Request id -> its answers that wait."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Sequence]:
        """Rank by rank, and in each key by key."""
        for rank in sorted(self._ranks):
            for line in self._ranks[rank].values():
                yield from line

    @property
    def num_requests(self) -> int:
        """Of which at least one answer waits."""
        return len(self._answers)

    def add(self, sequence: Sequence) -> None:
        line = self._ranks.setdefault(_rank(sequence), {}).setdefault(sequence.request.key, [])
        insort(line, sequence, key=_arrival)
        self._answers[sequence.request.id] += 1
        self._size += 1

    def remove(self, sequence: Sequence) -> None:
        rank, key, name = _rank(sequence), sequence.request.key, sequence.request.id
        lines = self._ranks[rank]
        del lines[key][bisect_left(lines[key], sequence.arrival, key=_arrival)]
        if not lines[key]:
            del lines[key]
        if not lines:
            del self._ranks[rank]
        self._answers[name] -= 1
        if not self._answers[name]:
            del self._answers[name]
        self._size -= 1

    def first(self, served: TokenCounter) -> Sequence | None:
        """Who starts next."""
        if not self._ranks:
            return None
        heads = (line[0] for line in self._ranks[min(self._ranks)].values())
        return min(heads, key=lambda head: (served[head.request.key], head.arrival))


def _rank(sequence: Sequence) -> tuple[int, bool]:
    """Does not change while it waits."""
    return sequence.request.priority, not sequence.num_preempted


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival
