"""A chat request of the wire -> a request of the engine."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.errors import ApiError
from server.request_json import parse
from server.schemas.openai import IGNORED, ChatRequest, unsupported
from server.schemas.violations import validate
from server.serving import Served
from server.translate.steering import SourceName, from_body, from_header, from_model_id, resolve
from steering.engine.request import Request, SamplingParams
from steering.errors import ContextLengthExceeded
from steering.model.chat import encode_chat
from steering.plan import Mode

DEFAULT_MAX_TOKENS = 1024
"""Where the request names no limit; less if the context has less room."""


@dataclass(frozen=True)
class Call:
    """One chat request, ready to run, with what its reply needs to know."""

    request: Request
    model: str
    """As asked for, and so as answered."""
    created: int
    """Unix seconds."""
    system_fingerprint: str
    stream: bool
    include_usage: bool
    source: SourceName
    ignored: tuple[str, ...]
    """Parameters that were taken and not used."""

    @property
    def headers(self) -> dict[str, str]:
        plan = self.request.plan
        headers = {
            "x-steering-profile": "off" if plan.mode == "off" else short_profile(plan.profile),
            "x-steering-source": self.source,
        }
        return headers | ({"x-ignored-params": ", ".join(self.ignored)} if self.ignored else {})


def short_profile(profile: str) -> str:
    """`name@` and the first 12 digits of the digest."""
    name, _, digest = profile.partition("@")
    return f"{name}@{digest[:12]}"


def prepare(body: bytes, headers: Sequence[str], served: Served, default_mode: Mode) -> Call:
    """Parses, validates, resolves the steering, renders the template, counts tokens; raises before any work is done.

    headers: values of `X-Steering-Profile`. CPU-bound: not for the event loop.
    """
    chat, ignored = _validate(parse(body))
    sources = [from_body(chat.steering), from_header(headers), from_model_id(chat.model, served)]
    resolved = resolve(sources, served, default_mode)
    _check_size(chat, served)
    prompt_ids = tuple(encode_chat(served.model, _messages(chat)))
    trace_tokens = resolved.plan.trace == "tokens"
    request = Request(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        prompt_ids=prompt_ids,
        sampling=_sampling(chat, _max_tokens(chat, len(prompt_ids), served.engine.context), trace_tokens=trace_tokens),
        plan=resolved.plan,
    )
    return Call(
        request=request,
        model=chat.model,
        created=int(time.time()),
        system_fingerprint=served.fingerprint(resolved.plan),
        stream=bool(chat.stream),
        include_usage=bool(chat.stream_options and chat.stream_options.include_usage),
        source=resolved.source,
        ignored=ignored,
    )


def _validate(body: object) -> tuple[ChatRequest, tuple[str, ...]]:
    """The request, and the names of what it holds that is ignored."""
    if isinstance(body, dict):
        ignored = sorted(IGNORED & body.keys())
        body = {key: value for key, value in body.items() if key not in IGNORED}
    chat = validate(ChatRequest, body)
    _check_served(chat)
    if any(message.name is not None for message in chat.messages):
        ignored.append("messages.name")
    if chat.stream_options and chat.stream_options.include_obfuscation is not None:
        ignored.append("stream_options.include_obfuscation")
    return chat, tuple(ignored)


def _check_served(chat: ChatRequest) -> None:
    """Well-formed, but not what this server does, or not together."""
    for name, value in chat:
        if message := unsupported(name, value):
            raise ApiError("unsupported_parameter", message, name)
    if chat.stream_options is not None and not chat.stream:
        raise ApiError("invalid_value", "stream_options is only allowed with stream: true.", "stream_options")
    if chat.top_logprobs is not None and not chat.logprobs:
        raise ApiError("invalid_value", "top_logprobs is only allowed with logprobs: true.", "top_logprobs")
    if len({chat.max_tokens, chat.max_completion_tokens} - {None}) > 1:
        message = "max_tokens and max_completion_tokens must be equal if both are given."
        raise ApiError("invalid_value", message, "max_tokens")
    last = len(chat.messages) - 1
    if chat.messages[last].role == "assistant":
        message = f"messages.{last}.role must not be assistant: an answer cannot be continued; end with user."
        raise ApiError("invalid_value", message, f"messages.{last}.role")


def _check_size(chat: ChatRequest, served: Served) -> None:
    """Refuses what is far too long without encoding it: megabytes take a tokenizer seconds."""
    least = sum(len(message.text.encode()) for message in chat.messages) // served.longest_token
    if least >= served.engine.context:
        raise _too_long(served.engine.context, f"at least {least}")


def _too_long(context: int, num_prompt: int | str) -> ContextLengthExceeded:
    message = f"The context is {context} tokens and the messages have {num_prompt}; shorten them."
    return ContextLengthExceeded(message, "messages")


def _messages(chat: ChatRequest) -> list[Mapping[str, str]]:
    return [
        {"role": "system" if message.role == "developer" else message.role, "content": message.text}
        for message in chat.messages
    ]


def _max_tokens(chat: ChatRequest, num_prompt: int, context: int) -> int:
    """The limit asked for, else what fits; refused, never clipped in silence."""
    room = context - num_prompt
    asked = chat.max_completion_tokens or chat.max_tokens
    if room < 1:
        raise _too_long(context, num_prompt)
    if asked is None:
        return min(room, DEFAULT_MAX_TOKENS)
    if asked > room:
        message = f"The context is {context} tokens; the messages have {num_prompt} and the answer may have {asked}."
        param = "max_tokens" if chat.max_completion_tokens is None else "max_completion_tokens"
        raise ContextLengthExceeded(f"{message} {param} can be at most {room}.", param)
    return asked


def _sampling(chat: ChatRequest, max_tokens: int, *, trace_tokens: bool) -> SamplingParams:
    stop = (chat.stop,) if isinstance(chat.stop, str) else tuple(chat.stop or ())
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if chat.temperature is None else chat.temperature,
        top_k=chat.top_k or 0,
        top_p=1.0 if chat.top_p is None else chat.top_p,
        min_p=chat.min_p or 0.0,
        seed=secrets.randbits(64) if chat.seed is None else chat.seed,
        stop=stop,
        logprobs=(chat.top_logprobs or 0) if chat.logprobs or trace_tokens else None,
    )
