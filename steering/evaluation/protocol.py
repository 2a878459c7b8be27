"""Protocol: how a benchmark questions a model, and what it makes of the replies.

A question is a conversation that may depend on what is said, so it is a generator of asks. All questions of a suite
run side by side: what they ask next goes to the backend together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from steering.evaluation.backend import Ask, Backend
from steering.evaluation.core import Reply

Replies = tuple[Reply, ...]
T = TypeVar("T")
Steps = Generator[tuple[Ask, ...], Replies, T]
"""Yields asks, is sent their replies."""
Measures = Mapping[str, float | None]
"""Name of a measure -> its value for one question; None where it says nothing (never right, so never flipped)."""
Cells = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Measure:
    """One number a suite reports: the mean over the questions for which it is not None."""

    name: str
    meaning: str
    better: Literal["higher", "lower", "neither"] = "higher"
    extremes: tuple[float, float] | None = (0.0, 1.0)
    """Least and greatest possible value; None where there are none."""


class Question(Protocol):
    """One question of a benchmark."""

    @property
    def id(self) -> str: ...

    @property
    def cluster(self) -> str:
        """Questions of one cluster are no independent draws."""
        ...

    def ask(self) -> Steps[None]: ...

    def grade(self, replies: Replies) -> Mapping[str, Measures]:
        """Deterministic graders, the one that counts first -> what each finds; empty where only a judge can."""
        ...

    def judge(self, replies: Replies) -> Steps[Measures] | None:
        """What a judge is asked; None where there is nothing to ask one."""
        ...


@dataclass(frozen=True)
class Heatmap:
    """A mean over questions."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Cells


@dataclass(frozen=True)
class Source:
    """Where questions come from."""

    data: Path
    seed: int = 0
    runs_code: bool = False
    """Whether code that a model wrote may be executed, in a sandbox."""


@dataclass(frozen=True)
class Suite:
    name: str
    title: str
    load: Callable[[Source], Sequence[Question]]
    measures: tuple[Measure, ...]
    num_asks: int
    """Asks of one question, for the time that is left."""
    needs_judge: bool = False
    capability: bool = False
    """What steering must not cost: reported for answers that fired and that did not."""
    heatmap: Callable[[Sequence[Question], Sequence[Replies]], Heatmap | None] | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one question."""

    question: Question
    replies: Replies
    grades: Mapping[str, Measures]
    error: str | None = None
    """Why it could not be asked to the end; such a question counts nowhere."""

    @property
    def fired(self) -> bool:
        return any(reply.fired_tokens for reply in self.replies)


def converse(
    conversations: Sequence[Steps[T]], backend: Backend, advance: Callable[[], None] = lambda: None
) -> list[tuple[Replies, T | None, str | None]]:
    """Runs conversations to their ends: (all replies in order, what it returned, why it could not go on)."""
    talks = [_Talk(steps) for steps in conversations]
    while waiting := [talk for talk in talks if talk.asks]:
        places = [(talk, i) for talk in waiting for i in range(len(talk.asks))]
        got: dict[int, Reply] = {}
        for at, reply in backend.answer([talk.asks[i] for talk, i in places]):
            got[at] = reply
            advance()
        first = 0
        for talk in waiting:
            last = first + len(talk.asks)
            talk.hear(tuple(got[at] for at in range(first, last)))
            first = last
    return [(talk.replies, talk.result, talk.error) for talk in talks]


class _Talk(Generic[T]):
    """One conversation under way."""

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self.replies: Replies = ()
        self.result: T | None = None
        self.error: str | None = None
        self.asks: tuple[Ask, ...] = ()
        self._go_on(None)

    def hear(self, replies: Replies) -> None:
        self.replies += replies
        self.error = next((reply.error for reply in replies if reply.error), None)
        if self.error:
            self.asks = ()
            self._steps.close()
        else:
            self._go_on(replies)

    def _go_on(self, replies: Replies | None) -> None:
        try:
            self.asks = next(self._steps) if replies is None else self._steps.send(replies)
        except StopIteration as end:
            self.asks, self.result = (), end.value
