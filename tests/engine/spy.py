"""Watches an engine from outside: what each step ran, and which rows moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass

from torch import Tensor

from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, Token, TokenEvent
from steering.engine.memory import Pool
from steering.engine.scheduler import Batch
from steering.engine.sequence import Sequence


@dataclass(frozen=True)
class Step:
    """What one forward ran."""

    rows: tuple[str, ...]
    retried: tuple[str, ...]
    chunks: tuple[tuple[str, int, int], ...]
    """(request id, start, length)"""


class Spy:
    """Records steps and moves of one engine, and checks on the way that rows are dense."""

    def __init__(self, engine: Engine) -> None:
        self.steps: list[Step] = []
        self.moves: list[tuple[int, int, int]] = []
        """Of rows, into a hole."""
        self.shares: list[tuple[int, int, int]] = []
        """Of prompts, to another answer of their request."""
        scheduler, memory = engine._scheduler, engine._memory
        schedule, share = scheduler.schedule, memory.share

        def spied_schedule() -> Batch:
            batch = schedule()
            for index, pool in enumerate(memory.pools):
                rows = [s.slot for s in batch.rows if s.pool == index]
                assert rows == list(range(len(rows))), "decode rows are not dense"
                assert [(s.pool, s.slot) for s in pool.residents if s] == [
                    (index, slot) for slot in range(len(pool.residents))
                ]
            assert memory.nbytes <= engine.kv.budget
            if batch:
                self.steps.append(
                    Step(
                        tuple(name_of(s.request.id, s.request.index) for s in batch.rows),
                        tuple(name_of(s.request.id, s.request.index) for s in batch.rows if s.retrying),
                        tuple(
                            (name_of(c.sequence.request.id, c.sequence.request.index), c.start, c.length)
                            for c in batch.chunks
                        ),
                    )
                )
            return batch

        def spied_share(donor: Sequence, sequence: Sequence, length: int) -> None:
            self.shares.append((donor.slot, sequence.slot, length))
            share(donor, sequence, length)

        def spied_move(pool: Pool) -> Callable[[Sequence, int], None]:
            move = pool._move

            def spied(sequence: Sequence, target: int) -> None:
                self.moves.append((sequence.slot, target, sequence.num_computed))
                move(sequence, target)

            return spied

        scheduler.schedule, memory.share = spied_schedule, spied_share  # type: ignore[method-assign]
        for pool in memory.pools:
            pool._move = spied_move(pool)  # type: ignore[method-assign]

    @property
    def retries(self) -> int:
        return sum(len(step.retried) for step in self.steps)

    @property
    def most_rows(self) -> int:
        return max(len(step.rows) for step in self.steps)

    @property
    def split_prompts(self) -> set[str]:
        return {request_id for step in self.steps for request_id, start, _ in step.chunks if start > 0}


def kv_tensors(engine: Engine) -> list[Tensor]:
    """Keys and values of all pools and layers, [slots, T, G, K] each."""
    return [cache for pool in engine._memory.pools for cache in (*pool.kv.keys, *pool.kv.values)]


def drain(engine: Engine, *, limit: int = 5000) -> list[TokenEvent]:
    """Steps until nothing is left to do."""
    events: list[TokenEvent] = []
    for _ in range(limit):
        if not engine.has_work:
            return events
        events += engine.step()
    raise AssertionError(f"still at work after {limit} steps")


def run_staggered(engine: Engine, requests: Iterable[Request], *, every: int = 2) -> dict[str, Completion]:
    """Adds one request every so many steps and runs all to their ends."""
    events: list[TokenEvent] = []
    for request in requests:
        engine.add(request)
        for _ in range(every):
            events += engine.step()
    return gather(events + drain(engine))


def name_of(request_id: str, index: int) -> str:
    """Of one answer: that of its request, for the first."""
    return f"{request_id}#{index}" if index else request_id


def gather(events: Several[TokenEvent]) -> dict[str, Completion]:
    """Answers by name. Nothing may follow a terminal event, and there is exactly one; a prompt comes first or never."""
    answers: dict[str, tuple[str, tuple[Token, ...]]] = {}
    prompts: dict[str, tuple[Token, ...]] = {}
    done: dict[str, Completion] = {}
    for event in events:
        own = name_of(event.request_id, event.index)
        assert own not in done, "an event after the terminal one"
        assert own not in answers or not event.prompt
        prompts.setdefault(own, event.prompt)
        text, tokens = answers.get(own, ("", ()))
        answers[own] = (text + event.text, (*tokens, event.token) if event.token else tokens)
        if event.finish:
            done[own] = Completion(event.request_id, *answers[own], event.finish, event.index, prompts[own])
    assert done.keys() == answers.keys(), "an answer without a terminal event"
    return done


def ids(completion: Completion) -> list[int]:
    return [token.id for token in completion.tokens]


def logprobs(completion: Completion) -> list[float | None]:
    return [token.logprob for token in completion.tokens]
