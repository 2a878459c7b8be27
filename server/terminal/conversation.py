"""A conversation and how its answers are asked for: each question becomes the request that HTTP would bring."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from server.serving import Served
from server.translate.chat import Call, prepare
from steering.engine.engine import Engine
from steering.engine.request import TokenEvent

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
        self._calls([_turn("user", "?")], changed)
        self.options = changed

    def ask(self, turns: Sequence[Turn], question: str) -> list[Call]:
        """The requests for an answer: one, or to compare one steered and one not, with the same random numbers."""
        return self._calls([*turns, _turn("user", question)], self.options)

    def keep(self, turns: Sequence[Turn], question: str, answer: str) -> None:
        self.turns = [*turns, _turn("user", question), _turn("assistant", answer)]

    def _calls(self, turns: Sequence[Turn], options: ChatOptions) -> list[Call]:
        body = {
            "model": self.served.model.name,
            "messages": [*([_turn("system", options.system)] if options.system else []), *turns],
            "seed": secrets.randbits(53),
            "temperature": options.temperature,
            "max_tokens": options.max_tokens,
        }
        steering = {"profile": options.profile, "strength": options.strength, "gate": options.gate}
        modes = ("on", "off") if options.steer == "compare" else (options.steer,)
        bodies = [json.dumps({**body, "steering": {**steering, "mode": mode}}).encode() for mode in modes]
        return [prepare(each, (), self.served, "off") for each in bodies]


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def run(
    engine: Engine, calls: Sequence[Call], interrupted: Callable[[], bool]
) -> Generator[tuple[int, TokenEvent], None, None]:
    """(index of a call, its next event); raises the error that ended one. Whatever is open at the end is aborted."""
    running: dict[str, int] = {}
    try:
        for index, call in enumerate(calls):
            engine.add(call.request)
            running[call.request.id] = index
        while running:
            for request_id in running if interrupted() else ():
                engine.abort(request_id)
            for event in engine.step():
                index = running[event.request_id]
                if event.finish is not None:
                    del running[event.request_id]
                    if event.finish.error is not None:
                        raise event.finish.error
                yield index, event
    finally:
        for request_id in running:
            engine.abort(request_id)
        while engine.has_work:
            engine.step()
