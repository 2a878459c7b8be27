"""Scheduler: which sequences run in the next step, and in which slot each of them lives.

Rows are dense: decode rows hold slots 0..n-1, and at most one sequence, part-way through its prompt, holds slot n. A
sequence is admitted only when this step gives it prompt tokens, so no second one can be left half-way.

The answers of one request wait in a row. The first computes the prompt; the others wait for that, then take it over:
copied from an answer that runs, or left in place by one that ends, so it is computed once however few rows there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from steering.engine.sequence import Sequence, Status
from steering.errors import QueueFull


@dataclass(frozen=True)
class Chunk:
    """Prompt positions start .. start + length - 1 of one sequence."""

    sequence: Sequence
    start: int
    length: int


@dataclass(frozen=True)
class Batch:
    """What one forward runs."""

    rows: tuple[Sequence, ...]
    """Decode rows: row r lives in slot r."""
    chunks: tuple[Chunk, ...]

    def __bool__(self) -> bool:
        return bool(self.rows or self.chunks)

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        return (*self.rows, *(chunk.sequence for chunk in self.chunks))


class Scheduler:
    """First come, first served, within `max_rows` rows and `prefill_tokens` prompt tokens a step."""

    def __init__(
        self,
        *,
        max_rows: int,
        prefill_tokens: int,
        queue: int,
        deterministic: bool,
        copy: Callable[[int, int, int], None],
    ) -> None:
        """copy(source, target, length): a slot's first positions over those of another slot."""
        self._max_rows, self._prefill_tokens, self._queue = max_rows, prefill_tokens, queue
        self._deterministic, self._copy = deterministic, copy
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        """By slot."""
        self._prefilled_last = False

    def add(self, *sequences: Sequence) -> None:
        """The answers of one request. `queue` counts requests: how many answers one has must not decide if it fits."""
        if len({sequence.request.id for sequence in self.waiting}) >= self._queue:
            raise QueueFull(f"{self._queue} requests are already waiting.")
        self.waiting.extend(sequences)

    def schedule(self) -> Batch:
        """The next step; empty iff there is nothing to do."""
        if not self._deterministic:
            chunks = self._prefill(self._prefill_tokens, len(self.waiting))
            return Batch(self._rows(), chunks)
        # Deterministic: prompts run one chunk of one sequence at a time, in steps of their own; decode takes turns.
        chunks = () if self._prefilled_last and self._rows() else self._prefill(self._prefill_tokens, 1)
        self._prefilled_last = bool(chunks)
        return Batch((), chunks) if chunks else Batch(self._rows(), ())

    def _rows(self) -> tuple[Sequence, ...]:
        """Sequences ready to decode, up to the first that is not: what stands behind it would not be dense."""
        return tuple(takewhile(lambda s: s.num_to_prefill == 0, self.running))

    def _prefill(self, budget: int, admissions: int) -> tuple[Chunk, ...]:
        chunks: list[Chunk] = []
        if self.running and (length := min(budget, self.running[-1].num_to_prefill)):
            chunks.append(Chunk(self.running[-1], self.running[-1].num_computed, length))
            budget, admissions = budget - length, 0 if self._deterministic else admissions
        while budget and admissions and self.waiting and len(self.running) < self._max_rows:
            donor = self._donor(self.waiting[0])
            if donor is not None and donor.num_to_prefill:
                break  # the prompt is not complete before the next step
            sequence = self._start(len(self.running))
            if donor is not None:
                self._copy(donor.slot, sequence.slot, sequence.num_to_prefill)
                sequence.share_prompt(donor)
                continue
            if length := min(budget, sequence.num_to_prefill):
                chunks.append(Chunk(sequence, 0, length))
            budget, admissions = budget - length, admissions - 1
        return tuple(chunks)

    def _donor(self, sequence: Sequence) -> Sequence | None:
        """A running sequence that has, or will have, the same prompt in its slot."""
        return next((s for s in self.running if s.prompt_key == sequence.prompt_key), None)

    def _start(self, slot: int) -> Sequence:
        """Gives the slot, behind the last or just left, to the first that waits."""
        sequence = self.waiting.popleft()
        sequence.status, sequence.slot = Status.RUNNING, slot
        self.running[slot : slot + 1] = [sequence]
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """Ends a sequence and closes its hole: another answer to its prompt starts there, else the last decode row
        moves into it, then the half-prefilled one."""
        if sequence.status is Status.WAITING:
            self.waiting.remove(sequence)
        elif self._leaves_prompt(sequence):
            self._start(sequence.slot).share_prompt(sequence)
        else:
            hole = sequence.slot
            partial = self.running.pop() if self.running[-1].num_to_prefill else None
            if sequence is not partial:
                last = self.running.pop()
                if last is not sequence:
                    self._place(last, hole)
                if partial is not None:
                    self.running.append(partial)
                    self._place(partial, len(self.running) - 1)
        sequence.status, sequence.slot = Status.FINISHED, -1

    def _leaves_prompt(self, sequence: Sequence) -> bool:
        """Whether the next in the queue can take over the slot as it is."""
        is_next = bool(self.waiting) and self.waiting[0].prompt_key == sequence.prompt_key
        return is_next and sequence.num_to_prefill == 0

    def _place(self, sequence: Sequence, slot: int) -> None:
        if sequence.slot != slot:
            self._copy(sequence.slot, slot, sequence.num_computed)
        sequence.slot = slot
        self.running[slot] = sequence
