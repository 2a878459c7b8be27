"""A chat request of the wire -> a request of the engine."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from server.caller import Caller
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
PRIORITIES: Mapping[ServiceTier, int] = {"default": 0, "flex": 1}
"""Of the engine: nobody can ask to go before others, but may let them go first."""


def prepare(body: bytes, headers: Sequence[str], served: Served, default_mode: Mode, caller: Caller) -> Call:
    """Parses, validates, resolves the steering, renders the template, counts tokens; raises before any work is done.

    headers: values of `X-Steering-Profile`. CPU-bound: not for the event loop.
    """
    chat, ignored = _validate(parse(body))
    resolved = resolve_steering(chat, headers, served, default_mode, caller)
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


def _max_tokens(chat: ChatRequest, num_prompt: int, context: int) -> int:
    limit = "max_tokens" if chat.max_completion_tokens is None else "max_completion_tokens"
    asked = chat.max_completion_tokens or chat.max_tokens
    return answer_length(asked, DEFAULT_MAX_TOKENS, num_prompt, context, ("messages", limit))
