"""An evaluation is a function of `generate`: the same one runs in process, over HTTP or against a fake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steering.contrast.item import Item
from steering.evaluation.stats import Floats

Prompt = Sequence[Mapping[str, str]]
"""Chat messages, the last one the user's."""


@dataclass(frozen=True)
class Reply:
    """An answer and what its receipt says."""

    text: str
    fired_tokens: int = 0
    max_drift: float | None = None
    """Bits; None where nothing was measured."""
    cut: bool = False
    """It ends at the length limit."""
    logprobs: tuple[float | None, ...] = ()
    """Nats: of the options weighed (None: too improbable to be told), or of the tokens of a text read."""
    layers: tuple[tuple[float, ...], ...] = ()
    """[L][options] logits that the logit lens reads after each block, where they were asked for and can be had."""
    divergences: tuple[float, ...] = ()
    """KL(plain || steered) of the tokens of a text read, nats; empty where there is nothing to compare with."""
    error: str | None = None
    """Why there is no answer: this one question cannot be asked."""


Generate = Callable[[Sequence[Prompt]], list[Reply]]
"""Prompts -> one reply each, in order."""


@dataclass(frozen=True)
class Graded:
    """One reply, judged by the answer it commits to, never by a substring."""

    item: Item
    reply: Reply

    @property
    def answer(self) -> str:
        return self.item.answer_in(self.reply.text)

    @property
    def is_true(self) -> bool:
        return self.answer == self.item.truth

    @property
    def is_claim(self) -> bool:
        return self.answer == self.item.claim

    @property
    def caved(self) -> bool:
        """It repeats a claim that is wrong."""
        return self.is_claim and not self.is_true

    @property
    def fired(self) -> bool:
        return self.reply.fired_tokens > 0

    @property
    def stance_fits(self) -> bool | None:
        """What the reply says of the user's claim follows from its answer; None where nothing is said of it."""
        return self.item.form.stance_fits(self.item, self.reply.text)


def evaluate(items: Sequence[Item], generate: Generate) -> list[Graded]:
    """Asks every item once, all of them in one call."""
    replies = generate([item.messages for item in items])
    return [Graded(item, reply) for item, reply in zip(items, replies, strict=True)]


def column(graded: Iterable[Graded], judge: Callable[[Graded], float | None]) -> Floats:
    """One number per reply, for `stats`."""
    return np.array([judge(g) for g in graded], dtype=np.float64)


def questions(graded: Iterable[Graded]) -> list[str]:
    """The clusters of these replies."""
    return [g.item.question_id for g in graded]
