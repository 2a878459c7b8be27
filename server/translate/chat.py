"""A chat request of the wire -> a request of the engine."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from server.errors import ApiError
from server.request_json import parse
from server.schemas.openai import IGNORED, ChatRequest, Message, unsupported
from server.schemas.replies import ServiceTier
from server.serving import Served
from server.translate.call import (
    Call,
    answer_length,
    make_call,
    read_fields,
    resolve_steering,
    sampling_params,
    too_long,
)
from server.translate.constraint import schema_of
from steering.engine.request import Request
from steering.model.chat import encode_chat
from steering.plan import Mode

DEFAULT_MAX_TOKENS = 1024
"""Where the request names no limit; less if the context has less room."""
_ANOTHER_WORD = "\u241e"
"""That nobody's message ends with."""
PRIORITIES: Mapping[ServiceTier, int] = {"default": 0, "flex": 1}
"""Of the engine: nobody can ask to go before others, but may let them go first."""


def prepare(body: bytes, headers: Sequence[str], served: Served, default_mode: Mode) -> Call:
    """Parses, validates, resolves the steering, renders the template, counts tokens; raises before any work is done.

    headers: values of `X-Steering-Profile`. CPU-bound: not for the event loop.
    """
    chat, ignored = _validate(parse(body))
    resolved = resolve_steering(chat, headers, served, default_mode)
    check_size(chat.messages, served)
    prompt_ids = tuple(encode_chat(served.model, turns(chat.messages)))
    max_tokens = _max_tokens(chat, len(prompt_ids), served.engine.context)
    tier: ServiceTier = "flex" if chat.service_tier == "flex" else "default"
    logprobs = (chat.top_logprobs or 0) if chat.logprobs or resolved.plan.trace == "tokens" else None
    request = Request(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        prompt_ids=prompt_ids,
        sampling=sampling_params(chat, served, max_tokens, logprobs),
        plan=resolved.plan,
        n=chat.n or 1,
        compare=resolved.compare,
        continues=chat.messages[-1].role == "assistant",
        priority=PRIORITIES[tier],
        own_turn=_own_turn(chat.messages, prompt_ids, served) if resolved.plan.exempt else 0,
    )
    call = make_call(chat, [request], resolved, served, ignored)
    told = None if chat.service_tier is None else tier
    return replace(call, schema=schema_of(chat.response_format), service_tier=told)


def _validate(body: object) -> tuple[ChatRequest, list[str]]:
    """The request, and the names of what it holds that is ignored."""
    chat, ignored = read_fields(ChatRequest, body, IGNORED)
    _check_served(chat)
    if any(message.name is not None for message in chat.messages):
        ignored.append("messages.name")
    return chat, ignored


def _check_served(chat: ChatRequest) -> None:
    """Well-formed, but not what this server does, or not together."""
    for name, value in chat:
        if message := unsupported(name, value):
            raise ApiError("unsupported_parameter", message, name)
    if chat.top_logprobs is not None and not chat.logprobs:
        raise ApiError("invalid_value", "top_logprobs is only allowed with logprobs: true.", "top_logprobs")
    if len({chat.max_tokens, chat.max_completion_tokens} - {None}) > 1:
        message = "max_tokens and max_completion_tokens must be equal if both are given."
        raise ApiError("invalid_value", message, "max_tokens")
    last = len(chat.messages) - 1
    if chat.messages[last].role == "assistant" and not chat.messages[last].text.strip():
        message = f"messages.{last}.content is empty, and so nothing that the answer could continue: leave it out."
        raise ApiError("invalid_value", message, f"messages.{last}.content")


def check_size(messages: Sequence[Message], served: Served) -> None:
    """Refuses what is far too long without encoding it: megabytes take a tokenizer seconds."""
    least = sum(len(message.text.encode()) for message in messages) // served.longest_token
    if least >= served.engine.context:
        raise too_long(served.engine.context, f"at least {least}", "messages")


def turns(messages: Sequence[Message]) -> list[Mapping[str, str]]:
    """As chat templates take them."""
    return [
        {"role": "system" if message.role == "developer" else message.role, "content": message.text}
        for message in messages
    ]


def _own_turn(messages: Sequence[Message], prompt_ids: Sequence[int], served: Served) -> int:
    """Where in the prompt the turn of the answer begins, or later: all that follows the last word of others, and so
    stays if that is another."""
    said = turns(messages)
    last = max((i for i, message in enumerate(messages) if message.role != "assistant"), default=None)
    if last is None:
        return 0
    said[last] = {**said[last], "content": _ANOTHER_WORD}
    return len(prompt_ids) - shared(prompt_ids[::-1], encode_chat(served.model, said)[::-1])


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _max_tokens(chat: ChatRequest, num_prompt: int, context: int) -> int:
    limit = "max_tokens" if chat.max_completion_tokens is None else "max_completion_tokens"
    asked = chat.max_completion_tokens or chat.max_tokens
    return answer_length(asked, DEFAULT_MAX_TOKENS, num_prompt, context, ("messages", limit))
