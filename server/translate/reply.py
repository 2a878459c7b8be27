"""Token events of the engine -> a reply of the wire, whole or in chunks: what all kinds of reply share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from server.errors import ErrorReply
from server.translate.call import Call
from steering.engine.request import Finish, Token, TokenEvent
from steering.errors import EngineFailure
from steering.model.loading import LanguageModel


class Reply(Protocol):
    """Writes the reply to one call: the same words, numbers and receipts either way."""

    call: Call
    model: LanguageModel

    def whole(self, events: Sequence[TokenEvent]) -> Mapping[str, object]:
        """All events of the call, each answer with its `finish`."""
        ...

    def chunks(self, event: TokenEvent) -> Iterator[Mapping[str, object]]:
        """Events in their order. None for a token whose text is still held back, unless its log-probability is
        wanted."""
        ...

    def closing(self) -> Iterator[Mapping[str, object]]:
        """After all events."""
        ...

    def failing(self, error: ErrorReply) -> Iterator[Mapping[str, object]]:
        """In place of what would have come, if anything was sent before."""
        ...


@dataclass
class Answer:
    """The events of one choice, gathered."""

    text: str = ""
    prompt: Sequence[Token] = ()
    tokens: list[Token] = field(default_factory=list)
    end: Finish | None = None

    @property
    def finish(self) -> Finish:
        if self.end is None:
            raise EngineFailure("an answer ended without its terminal event.")
        return self.end


def gather(call: Call, events: Iterable[TokenEvent]) -> list[Answer]:
    """By the index of the choice."""
    answers = [Answer() for _ in call.choices]
    for event in events:
        answer = answers[call.index(event)]
        answer.text += event.text
        answer.prompt = answer.prompt or event.prompt
        answer.tokens += [] if event.token is None else [event.token]
        answer.end = event.finish
    return answers
