"""What a reply says about its steering: the receipt of an answer, the trace of its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias, cast

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from unsway_client.types import Receipt, Trace, TracedToken

Reply: TypeAlias = ChatCompletion | ChatCompletionChunk | Completion | Response | Trace
"""Whole, one chunk of a stream (of `responses` the `response` of its last event), or what `client.traces(id)` gives."""


def receipt(reply: Reply | Iterable[Reply], choice: int = 0) -> Receipt | None:
    """What fired in the answer number `choice`, where, how hard. None where steering was off, and of chunks before the
    last of an answer.

    `reply` may also be the chunks of a whole stream, in a list. What `.stream(...)` accumulates has lost the receipt,
    though not the trace: `receipt(client.traces(final.id))`.
    """
    found: Receipt | None = None
    for part in _choices(reply, choice):
        found = part.get("steering") or found
    return found


def trace(reply: Reply | Iterable[Reply], choice: int = 0) -> list[TracedToken]:
    """The tokens of the answer number `choice`, each with what the early layers and the output would have said there.

    Of requests with `trace: "tokens"`; the list is empty where there are no log-probabilities at all.
    """
    return [token for part in _choices(reply, choice) for token in _tokens(part)]


def _choices(reply: Reply | Iterable[Reply], index: int) -> Iterator[Mapping[str, Any]]:
    """All that there is of one choice, as JSON has it."""
    if isinstance(reply, ChatCompletion | ChatCompletionChunk | Completion):
        choices = [choice.to_dict(warnings=False) for choice in reply.choices if choice.index == index]
        yield from choices
    elif isinstance(reply, Response):
        yield from [_answer(reply.to_dict(warnings=False))] if index == 0 else []
    elif isinstance(reply, Mapping):
        yield from (choice for choice in cast(Trace, reply)["choices"] if choice["index"] == index)
    else:
        for part in reply:
            yield from _choices(part, index)


def _answer(response: Mapping[str, Any]) -> Mapping[str, Any]:
    """A response as the only choice: its items say one after the other what was generated."""
    parts = [part for item in response["output"] for part in (item, *(item.get("content") or ()))]
    tokens = [entry for part in parts for entry in part.get("logprobs") or ()]
    return {"steering": response.get("steering"), "tokens": tokens}


def _tokens(choice: Mapping[str, Any]) -> Iterator[TracedToken]:
    logprobs = choice.get("logprobs") or {}
    if logprobs.get("tokens") is not None:  # of a text completion: parallel lists
        steering = logprobs.get("steering") or [None] * len(logprobs["tokens"])
        entries = [{"token": token, "steering": told} for token, told in zip(logprobs["tokens"], steering, strict=True)]
    else:
        entries = choice.get("tokens") or logprobs.get("content") or []
    for entry in entries:
        token: TracedToken = {"token": entry["token"]}
        if entry.get("steering") is not None:
            token["steering"] = entry["steering"]
        yield token
