"""Scheduler: which sequences run in the next step. Where each of them lives is up to `KvMemory`.

The best of the waiting ones starts first (`steering.engine.waiting`). It is admitted only in a step that gives it
prompt tokens, and only where there is memory for it. Rows that run and outgrow the memory preempt the worst of the
running ones, which waits again and computes anew what it had. The best one is never preempted for others, so there is
always progress.

The answers of one request are side by side in the queue. The first computes the prompt; the others wait for that, then
take it over: copied from an answer that runs, or left in place by one that ends, so it is computed once however few
rows there are.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from itertools import count

from steering.engine.fairness import PROMPT_WEIGHT, ROW_WEIGHT, TokenCounter
from steering.engine.memory import KvMemory
from steering.engine.pace import Pace
from steering.engine.sequence import Sequence, Status
from steering.engine.waiting import Waiting
from steering.errors import QueueFull


@dataclass(frozen=True)
class Chunk:
    """Positions start .. start + length - 1 of one sequence: of its prompt, or of what it lost by preemption."""

    sequence: Sequence
    start: int
    length: int


@dataclass(frozen=True)
class Batch:
    """What one forward runs."""

    rows: tuple[Sequence, ...]
    """Decode rows, pool by pool: those of a pool live in its slots 0, 1, ..."""
    chunks: tuple[Chunk, ...]

    def __bool__(self) -> bool:
        return bool(self.rows or self.chunks)

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        return (*self.rows, *(chunk.sequence for chunk in self.chunks))


class Scheduler:
    """Best first, within `max_rows` rows, `prefill_tokens` prompt tokens a step and the memory."""

    def __init__(
        self,
        memory: KvMemory,
        *,
        max_rows: int,
        prefill_tokens: int,
        queue: int,
        deterministic: bool,
        prefill_stretch: float = 0.0,
    ) -> None:
        """prefill_stretch: how many times as long a step may take as one without prompts, if rows decode; 0: any."""
        self._memory, self._max_rows, self._row_limit = memory, max_rows, max_rows
        self._prefill_tokens, self._queue, self._deterministic = prefill_tokens, queue, deterministic
        paced = prefill_stretch and not deterministic
        self._pace = Pace(prefill_stretch, prefill_tokens) if paced else None
        self.waiting = Waiting()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.num_steps = self.num_step_rows = 0
        self._served = TokenCounter()
        self._active: Counter[str] = Counter()
        """Key -> its sequences that wait or run; none is 0."""
        self._arrivals = count()
        self._prefilled_last = False
        self._memory_rows = max_rows
        """How many ran when memory last had no room for another, until more of them find room."""

    def add(self, *sequences: Sequence) -> None:
        """The answers of one request. `queue` counts requests: how many answers one has must not decide if it fits."""
        if self.waiting.num_requests >= self._queue:
            raise QueueFull(f"{self._queue} requests are already waiting.")
        key = sequences[0].request.key
        self._served.join(key, self._active.keys())
        self._active[key] += len(sequences)
        for sequence in sequences:
            sequence.arrival = next(self._arrivals)
            self.waiting.add(sequence)

    def schedule(self) -> Batch:
        """The next step; empty iff there is nothing to do, or nothing runs and the first that waits has no memory."""
        self._lengthen()
        if not self._deterministic:
            batch = self._batch(self._prefill(), rows=True)
        # Deterministic: prompts run one chunk of one sequence at a time, in steps of their own; decode takes turns.
        elif self._prefilled_last and any(s.num_to_prefill == 0 for s in self.running):
            batch = self._batch((), rows=True)
        else:
            chunks = self._prefill()
            batch = self._batch(chunks, rows=not chunks)
        self._prefilled_last = bool(batch.chunks)
        return batch

    def _batch(self, chunks: tuple[Chunk, ...], *, rows: bool) -> Batch:
        self._memory.settle()
        batch = Batch(tuple(s for pool in self._memory.pools for s in pool.decode_rows) if rows else (), chunks)
        for sequence in batch.rows:
            self._served.charge(sequence.request.key, ROW_WEIGHT)
        return batch

    def _lengthen(self) -> None:
        """Rows that outgrew their slots move to longer ones; where there is no memory, the worst row has to go."""
        for sequence in sorted(self.running, key=_rank):
            while sequence.status is Status.RUNNING and self._memory.is_outgrown(sequence):
                if not self._memory.lengthen(sequence):
                    self.preempt(max(self.running, key=_rank))

    def _prefill(self) -> tuple[Chunk, ...]:
        """Chunks for this step: prompts under way before others of their priority, then those that can start."""
        under_way = deque(sorted((s for s in self.running if s.num_to_prefill), key=_rank))
        budget, chunks, admits = self._prefill_budget(len(under_way)), list[Chunk](), True
        while budget and not (chunks and self._deterministic):
            best = self.next_waiting if admits else None
            if best is not None and not (under_way and under_way[0].request.priority <= best.request.priority):
                sequence = best
                if not (admits := self._admit(best)):
                    continue
            elif under_way:
                sequence = under_way.popleft()
            else:
                break
            if length := sequence.next_chunk(budget):
                chunks.append(Chunk(sequence, sequence.num_computed, length))
                cost = length * sequence.prefill_cost
                self._served.charge(sequence.request.key, PROMPT_WEIGHT * cost)
                budget = max(0, budget - cost)
        return tuple(chunks)

    def observe(self, batch: Batch, seconds: float) -> None:
        """The step has been run and took so long."""
        self.num_steps += 1
        self.num_step_rows += len(batch.rows)
        if self._pace is not None:
            self._pace.observe(seconds, rows=len(batch.rows), tokens=sum(chunk.length for chunk in batch.chunks))

    def _prefill_budget(self, under_way: int) -> int:
        """Prompt tokens of this step. under_way: how many of those that run have a prompt to read."""
        rows = len(self.running) - under_way
        if self._pace is None or not rows:
            return self._prefill_tokens
        room = min(self._row_limit, self._memory_rows) - len(self.running)
        return self._pace.budget(rows, under_way + max(0, min(len(self.waiting), room)))

    @property
    def next_waiting(self) -> Sequence | None:
        return self.waiting.first(self._served)

    def _admit(self, sequence: Sequence) -> bool:
        """Gives it a slot and what others computed of it; False if it has to wait for a row, for memory or until the
        prompt that it shares is complete."""
        if len(self.running) >= self._row_limit:
            return False
        donor = next((s for s in self.running if s.prompt_key == sequence.prompt_key), None)
        if donor is not None and not donor.has_prompt:
            return False
        if not self._memory.place(sequence):
            self._memory_rows = len(self.running)
            return False
        self._start(sequence)
        if len(self.running) > self._memory_rows:
            self._memory_rows = self._max_rows
        if donor is not None:
            self._memory.share(donor, sequence, sequence.num_prompt - 1)
            sequence.share_prompt(donor)
        else:
            self._memory.restore(sequence)
        return True

    def _start(self, sequence: Sequence) -> None:
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.status = Status.RUNNING

    def preempt(self, sequence: Sequence) -> None:
        """Takes a running sequence's slot; it waits again, before those that never ran."""
        self._memory.release(sequence)
        self.running.remove(sequence)
        sequence.preempt()
        self.waiting.add(sequence)
        self.num_preemptions += 1

    def shed(self, sequences: tuple[Sequence, ...]) -> None:
        """Preempts the worse half of a step that ran out of memory. No more rows than are left run from then on, and
        one more with each answer that ends."""
        for sequence in sorted(sequences, key=_rank)[(len(sequences) + 1) // 2 :]:
            sequence.num_shed += 1
            self.preempt(sequence)
        self._row_limit = len(self.running)

    def remove(self, sequence: Sequence) -> None:
        """Ends a sequence; another answer to its prompt starts in its slot, if that is the next."""
        if sequence.status is Status.WAITING:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            heir = self.next_waiting
            if heir is not None and _inherits(heir, sequence):
                self._memory.hand_over(sequence, heir)
                self._start(heir)
                heir.share_prompt(sequence)
            else:
                self._memory.release(sequence)
            if not self.running:
                self._memory.rest()
        sequence.status = Status.FINISHED
        key = sequence.request.key
        self._active[key] -= 1
        if not self._active[key]:
            del self._active[key]
        self._row_limit = min(self._max_rows, self._row_limit + 1)


def _rank(sequence: Sequence) -> tuple[int, int]:
    """Among those that run; the greatest is preempted first."""
    return sequence.request.priority, sequence.arrival


def _inherits(heir: Sequence, sequence: Sequence) -> bool:
    """Whether it can start in the slot that the other leaves; with an answer of its own it might not fit."""
    return heir.prompt_key == sequence.prompt_key and sequence.has_prompt and not heir.num_generated
