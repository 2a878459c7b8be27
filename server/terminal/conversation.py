"""A conversation and how its answers are asked for: each question becomes the request that HTTP would bring."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from server.caller import LOCAL
from server.serving import Served
from server.translate.call import Call
from server.translate.chat import prepare
from steering.engine.engine import Engine
from steering.engine.request import Request, TokenEvent

Steer = Literal["on", "off", "observe", "compare"]
Turn = dict[str, str]


@dataclass(frozen=True)
class ChatOptions:
    """What every question is asked with; None leaves it to the model and its profile."""

    steer: Steer = "off"
    profile: str | None = None
    strength: float | str | None = None
    """Text that is no number is refused where every strength is checked."""
    gate: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float = 0.0

    def __str__(self) -> str:
        named = {"profile": self.profile, "strength": self.strength, "gate": self.gate}
        return ", ".join(
            [f"steering {self.steer}", *(f"{name} {value}" for name, value in named.items() if value is not None)]
        )


class Conversation:
    """Turns so far and the options in force."""

    def __init__(self, served: Served, options: ChatOptions) -> None:
        """Raises `ApiError` or `SteeringError` if no question could be asked like that."""
        self.served, self.options = served, ChatOptions()
        self.turns: list[Turn] = []
        self.change(**vars(options))

    def change(self, **changes: Any) -> None:
        """Takes on options; raises, and changes nothing, if no question could be asked with them."""
        changed = replace(self.options, **changes)
        self._call([_turn("user", "?")], changed)
        self.options = changed

    def ask(self, turns: Sequence[Turn], question: str) -> Call:
        """What is asked for: one answer, or to compare one steered and one not, with the same random numbers."""
        return self._call([*turns, _turn("user", question)], self.options)

    def keep(self, turns: Sequence[Turn], question: str, answer: str) -> None:
        self.turns = [*turns, _turn("user", question), _turn("assistant", answer)]

    def _call(self, turns: Sequence[Turn], options: ChatOptions) -> Call:
        steering = {
            "mode": options.steer,
            "profile": options.profile,
            "strength": options.strength,
            "gate": options.gate,
        }
        body = {
            "model": self.served.model.name,
            "messages": [*([_turn("system", options.system)] if options.system else []), *turns],
            "seed": secrets.randbits(53),
            "temperature": options.temperature,
            "max_tokens": options.max_tokens,
            "steering": steering,
        }
        return prepare(json.dumps(body).encode(), (), self.served, "off", LOCAL)


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def run(engine: Engine, request: Request, interrupted: Callable[[], bool]) -> Iterator[TokenEvent]:
    """The events of all answers; raises the error that ended one. What is open at the end is aborted."""
    unfinished = len(request.choices)
    engine.add(request)
    try:
        while unfinished:
            if interrupted():
                engine.abort(request.id)
            for event in engine.step():
                if event.finish is not None:
                    unfinished -= 1
                    if event.finish.error is not None:
                        raise event.finish.error
                yield event
    finally:
        engine.abort(request.id)
        while engine.has_work:
            engine.step()
