"""Backend: whatever answers. The engine in this process, any OpenAI-compatible URL, or a fake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from steering.evaluation.core import Reply

Message = Mapping[str, str]


@dataclass(frozen=True)
class Chat:
    """An answer is wanted."""

    messages: tuple[Message, ...]
    """The last is the user's, or the beginning of the assistant's own turn, which the answer continues."""
    max_tokens: int = 1024
    temperature: float = 0.0
    draw: int = 0
    """Seed; of a panel of judges, also whose turn it is."""


@dataclass(frozen=True)
class Weigh:
    """Log-probabilities of given continuations are wanted, and no answer."""

    messages: tuple[Message, ...]
    options: tuple[str, ...]
    layers: bool = False
    """Also what the logit lens reads of them after each block."""


@dataclass(frozen=True)
class Read:
    """Log-probabilities of a text's own tokens are wanted."""

    text: str


Ask = Chat | Weigh | Read


class Backend(Protocol):
    """Answers asks in any order, each as soon as it is there.

    What only concerns one ask is that reply's `error`; what concerns all raises `BackendError`.
    """

    @property
    def identity(self) -> Mapping[str, str]:
        """What the answers depend on: equal identities give equal answers."""
        ...

    def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """(index of the ask, its reply)"""
        ...


@dataclass(frozen=True)
class Prompted:
    """The same under a system prompt: the baseline that steering has to beat (AxBench, arXiv 2501.17148)."""

    inner: Backend
    system: str

    @property
    def identity(self) -> Mapping[str, str]:
        return {**self.inner.identity, "system": self.system}

    def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        return self.inner.answer([self._prompted(ask) for ask in asks])

    def _prompted(self, ask: Ask) -> Ask:
        match ask:
            case Chat(messages, max_tokens, temperature, draw):
                return Chat(with_system(messages, self.system), max_tokens, temperature, draw)
            case Weigh(messages, options, layers):
                return Weigh(with_system(messages, self.system), options, layers)
        return ask


def with_system(messages: Sequence[Message], text: str) -> tuple[dict[str, str], ...]:
    """A system message put first, or before what the one there says; an empty text changes nothing."""
    said = tuple(dict(message) for message in messages)
    if not text:
        return said
    if said[0]["role"] != "system":
        return ({"role": "system", "content": text}, *said)
    return ({**said[0], "content": f"{text}\n\n{said[0]['content']}"}, *said[1:])


@dataclass(frozen=True)
class Panel:
    """Judges that take turns: draw i is the i-th one's."""

    judges: tuple[Backend, ...]

    @property
    def identity(self) -> Mapping[str, str]:
        return {f"{key} {i}": value for i, judge in enumerate(self.judges) for key, value in judge.identity.items()}

    def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        for turn, judge in enumerate(self.judges):
            mine = [i for i, ask in enumerate(asks) if self._turn(ask) == turn]
            for i, reply in judge.answer([asks[i] for i in mine]):
                yield mine[i], reply

    def _turn(self, ask: Ask) -> int:
        return ask.draw % len(self.judges) if isinstance(ask, Chat) else 0


def shared_length(texts: Sequence[Sequence[object]]) -> int:
    """Of what all begin with."""
    return next((i for i, items in enumerate(zip(*texts, strict=False)) if len(set(items)) > 1), min(map(len, texts)))
