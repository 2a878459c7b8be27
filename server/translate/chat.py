"""A chat request of the wire -> a request of the engine."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from server.caller import Caller
from server.errors import ApiError
from server.request_json import parse
from server.schemas.openai import IGNORED, ChatRequest, unsupported
from server.schemas.replies import ServiceTier
from server.serving import Served
from server.translate.answer_form import answer_form
from server.translate.call import Call, answer_length, make_call, read_fields, resolve_steering, sampling_params
from server.translate.constraint import schema_of
from server.translate.names import Names
from server.translate.prompt import shared
from server.translate.steering import Resolved
from server.translate.tools import Toolbox, toolbox
from server.translate.turns import check_last, check_size, encode, turns
from steering.engine.request import Request
from steering.engine.spans import SpanReader
from steering.errors import InvalidRequest
from steering.model.answer_parser import AnswerForm
from steering.model.chat import Turn, encode_chat
from steering.plan import Mode

DEFAULT_MAX_TOKENS = 1024
"""Where the request names no limit; less if the context has less room."""
_ANOTHER_WORD = "\u241e"
"""That nobody's message ends with."""
PRIORITIES: Mapping[ServiceTier, int] = {"default": 0, "flex": 1}
"""Of the engine: nobody can ask to go before others, but may let them go first."""


def prepare(body: bytes, headers: Sequence[str], served: Served, default_mode: Mode, caller: Caller) -> Call:
    """Parses, validates, resolves the steering, renders the template, counts tokens; raises before any work is done.

    headers: values of `X-Steering-Profile`. CPU-bound: not for the event loop.
    """
    chat, ignored = _validate(parse(body))
    names = Names(limit="max_tokens" if chat.max_completion_tokens is None else "max_completion_tokens")
    return to_call(chat, resolve_steering(chat, headers, served, default_mode, caller), served, names, ignored)


def to_call(chat: ChatRequest, resolved: Resolved, served: Served, names: Names, ignored: Sequence[str]) -> Call:
    """A chat that is well-formed, of whatever route. names: of its fields there."""
    said = turns(chat.messages)
    _check_last(said)
    box = toolbox(chat, schema_of(chat.response_format, names), served, names)
    check_size(said, box.tools, served, names.prompt)
    prompt_ids = _encode(said, box, served, names)
    limits, asked = (names.prompt, names.limit), chat.max_completion_tokens or chat.max_tokens
    max_tokens = answer_length(asked, DEFAULT_MAX_TOKENS, len(prompt_ids), served.engine.context, limits)
    tier: ServiceTier = "flex" if chat.service_tier == "flex" else "default"
    logprobs = (chat.top_logprobs or 0) if chat.logprobs or resolved.plan.trace == "tokens" else None
    form, shown = answer_form(said, prompt_ids, box, served.model)
    request = Request(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        prompt_ids=prompt_ids,
        sampling=sampling_params(chat, served, max_tokens, logprobs),
        plan=resolved.plan,
        n=chat.n or 1,
        compare=resolved.compare,
        continues=form.continues,
        shown=shown,
        priority=PRIORITIES[tier],
        spans=_spans(said, box, prompt_ids, served, form) if resolved.plan.exempt else None,
    )
    call = make_call(chat, [request], resolved, served, ignored)
    told = None if chat.service_tier is None else tier
    return replace(call, shape=box.shape, names=names, form=form, service_tier=told)


def _check_last(said: Sequence[Turn]) -> None:
    """An answer goes on with a text, and there has to be one."""
    check_last(said)
    turn, path = said[-1], f"messages.{len(said) - 1}"
    if turn["role"] == "assistant" and not str(turn["content"]).strip():
        message = f"{path}.content is empty, and so nothing that the answer could continue: leave it out."
        raise ApiError("invalid_value", message, f"{path}.content")


def _encode(said: Sequence[Turn], box: Toolbox, served: Served, names: Names) -> tuple[int, ...]:
    try:
        return tuple(encode(said, box.tools, served, names.prompt))
    except InvalidRequest as error:
        if names.prompt != "messages" and str(error.param).startswith("messages"):
            error.param = names.prompt  # whose items are not messages one for one
        raise


def _validate(body: object) -> tuple[ChatRequest, list[str]]:
    """The request, and the names of what it holds that is ignored."""
    chat, ignored = read_fields(ChatRequest, body, IGNORED)
    _check_served(chat)
    if any(message.name is not None for message in chat.messages):
        ignored.append("messages.name")
    if chat.parallel_tool_calls is not None and not chat.tools:
        ignored.append("parallel_tool_calls")
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


def _spans(
    said: Sequence[Turn], box: Toolbox, prompt_ids: Sequence[int], served: Served, form: AnswerForm
) -> SpanReader:
    """What the answer begins in, told from the form that it is read in: the two agree on what is reasoning."""
    own = prompt_ids[_own_turn(said, box, prompt_ids, served) :]
    begins = form.certain or not form.continues
    return SpanReader(served.model.tokenizer, own, reasons=bool(form.reasoning), begins=begins)


def _own_turn(said: Sequence[Turn], box: Toolbox, prompt_ids: Sequence[int], served: Served) -> int:
    """Where in the prompt the turn of the answer begins, or later: all that follows the last word of others, and so
    stays if that is another."""
    last = max((i for i, turn in enumerate(said) if turn["role"] != "assistant"), default=None)
    if last is None:
        return 0
    others = [{**turn, "content": _ANOTHER_WORD} if i == last else turn for i, turn in enumerate(said)]
    return len(prompt_ids) - shared(prompt_ids[::-1], encode_chat(served.model, others, box.tools)[::-1])
