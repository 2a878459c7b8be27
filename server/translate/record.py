"""Token events -> the trace that is kept of a request, put together while the reply goes out."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from server.async_engine import Events
from server.schemas.traces import TracedToken
from server.traces import MAX_TRACE, TraceStore
from server.translate.call import Call
from server.translate.receipt import reason, receipt, trace
from steering.engine.request import Finish, Token, TokenEvent
from steering.model.chat import token_text
from steering.model.loading import LanguageModel


async def recorded(events: Events, recorder: Recorder) -> AsyncGenerator[TokenEvent, None]:
    """The same events, less what a trace has no room for. The trace is kept before the last of them is passed on: who
    has the reply can ask for it."""
    async with aclosing(events):
        async for event in events:
            yield recorder.take(event)


@dataclass
class _Choice:
    """JSON of the tokens so far."""

    tokens: list[bytes] = field(default_factory=list)
    truncated: bool = False
    document: bytes | None = None
    """Once it has ended."""


class Recorder:
    """Keeps the trace of one call as soon as all its answers have ended; none where nothing was steered, observed or
    compared."""

    def __init__(
        self,
        call: Call,
        model: LanguageModel,
        store: TraceStore,
        *,
        owner: str | None = None,
        limit: int = MAX_TRACE,
    ) -> None:
        """owner: who may ask for it (`caller_of`)."""
        self._call, self._model, self._store, self._owner = call, model, store, owner
        self._room = limit
        self._choices = [_Choice() for _ in call.choices]
        self._wanted = any(request.plan.mode != "off" for request in call.requests)

    def take(self, event: TokenEvent) -> TokenEvent:
        """The event as the reply may tell it: what the trace has no room for is nowhere, so that no reply grows by it,
        and nobody holds it."""
        if not self._wanted:
            return event
        index = self._call.index(event)
        traced = event.token if self._call.choices[index].request.plan.trace == "tokens" else None
        if traced is not None and not self._add(index, traced):
            self._call.truncated.add(index)
            event = replace(event, token=replace(traced, reading=None, exempt=False))
        if event.finish is not None and event.finish.error is None:
            self._choices[index].document = self._ended(index, event.finish)
            if all(choice.document is not None for choice in self._choices):
                self._store.put(self._call.id, self._document(), self._owner)
        return event

    def _add(self, index: int, token: Token) -> bool:
        """Whether there was room for it."""
        choice = self._choices[index]
        entry: TracedToken = {"token": token_text(self._model, token.id)}
        if traced := trace(token, self._call.choices[index].request.plan, self._model):
            entry["steering"] = traced
        encoded = _encode(entry)
        choice.truncated |= len(encoded) > self._room
        if not choice.truncated:
            self._room -= len(encoded) + 1
            choice.tokens.append(encoded)
        return not choice.truncated

    def _ended(self, index: int, finish: Finish) -> bytes:
        asked, choice = self._call.choices[index], self._choices[index]
        told: dict[str, object] = {
            "index": index,
            "finish_reason": reason(finish),
            "steering": receipt(self._call, index, finish, self._model),
        }
        if choice.truncated:
            told["truncated"] = True
        if asked.request.plan.trace != "tokens":
            return _encode(told)
        tokens, choice.tokens = _array(choice.tokens), []
        return _with(told, "tokens", tokens)

    def _document(self) -> bytes:
        head: dict[str, object] = {
            "id": self._call.id,
            "object": "steering.trace",
            "created": self._call.created,
            "model": self._call.model,
            "system_fingerprint": self._call.system_fingerprint,
        }
        return _with(head, "choices", _array([choice.document or b"" for choice in self._choices]))


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _array(items: list[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def _with(told: dict[str, object], key: str, value: bytes) -> bytes:
    """JSON of an object with one more key, whose value is JSON already."""
    return _encode(told)[:-1] + b"," + _encode(key) + b":" + value + b"}"
