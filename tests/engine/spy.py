"""Watches an engine from outside: what each step ran, and which rows moved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, Token, TokenEvent
from steering.engine.scheduler import Batch


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
        scheduler = engine._scheduler
        schedule, move = scheduler.schedule, scheduler._move

        def spied_schedule() -> Batch:
            batch = schedule()
            assert [s.slot for s in batch.rows] == list(range(len(batch.rows)))
            assert [s.slot for s in scheduler.running] == list(range(len(scheduler.running)))
            if batch:
                self.steps.append(
                    Step(
                        tuple(s.request.id for s in batch.rows),
                        tuple(s.request.id for s in batch.rows if s.retrying),
                        tuple((c.sequence.request.id, c.start, c.length) for c in batch.chunks),
                    )
                )
            return batch

        def spied_move(source: int, target: int, length: int) -> None:
            self.moves.append((source, target, length))
            move(source, target, length)

        scheduler.schedule, scheduler._move = spied_schedule, spied_move  # type: ignore[method-assign]

    @property
    def retries(self) -> int:
        return sum(len(step.retried) for step in self.steps)

    @property
    def most_rows(self) -> int:
        return max(len(step.rows) for step in self.steps)

    @property
    def split_prompts(self) -> set[str]:
        return {request_id for step in self.steps for request_id, start, _ in step.chunks if start > 0}


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


def gather(events: Sequence[TokenEvent]) -> dict[str, Completion]:
    """Answers by request id. Nothing may follow a terminal event, and there is exactly one."""
    answers: dict[str, tuple[str, tuple[Token, ...]]] = {}
    done: dict[str, Completion] = {}
    for event in events:
        assert event.request_id not in done, "an event after the terminal one"
        text, tokens = answers.get(event.request_id, ("", ()))
        answers[event.request_id] = (text + event.text, (*tokens, event.token) if event.token else tokens)
        if event.finish:
            done[event.request_id] = Completion(event.request_id, *answers[event.request_id], event.finish)
    assert done.keys() == answers.keys(), "an answer without a terminal event"
    return done


def ids(completion: Completion) -> list[int]:
    return [token.id for token in completion.tokens]


def logprobs(completion: Completion) -> list[float | None]:
    return [token.logprob for token in completion.tokens]
