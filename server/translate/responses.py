"""A request of the Responses API -> the chat that asks for the same -> a request of the engine."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from server.caller import Caller
from server.errors import ApiError
from server.request_json import parse
from server.schemas.openai import ChatRequest
from server.schemas.response_format import JsonObjectFormat
from server.schemas.responses import (
    IGNORED_IN_RESPONSES,
    LOGPROBS,
    NEUTRAL_IN_RESPONSES,
    CallItem,
    CallOutputItem,
    Item,
    ItemText,
    MessageItem,
    ReasoningItem,
    ResponseJsonSchema,
    ResponseNamedTool,
    ResponsesRequest,
    TextForm,
)
from server.schemas.violations import validate
from server.serving import Served
from server.translate.call import Call, read_fields, resolve_steering
from server.translate.chat import to_call
from server.translate.names import Names
from steering.plan import Mode

NAMES = Names(
    prompt="input",
    limit="max_output_tokens",
    schema="text.format.schema",
    tool="tools.{}",
    choice="tool_choice.name",
)
Turn = dict[str, object]


def prepare(body: bytes, headers: Sequence[str], served: Served, default_mode: Mode, caller: Caller) -> Call:
    """Parses, validates, resolves the steering, renders the template, counts tokens; raises before any work is done.

    headers: values of `X-Steering-Profile`. CPU-bound: not for the event loop.
    """
    fields, ignored = _validate(parse(body))
    chat = validate(ChatRequest, _chat(fields))
    chat = chat.model_copy(update={"steering": fields.steering})
    resolved = resolve_steering(chat, headers, served, default_mode, caller)
    if resolved.compare:
        message = "steering mode compare gives two answers, and a response has one: use /v1/chat/completions."
        raise ApiError("unsupported_parameter", message, "steering.mode")
    call = to_call(chat, resolved, served, NAMES, ignored)
    requests = tuple(replace(request, id=f"resp_{uuid.uuid4().hex}") for request in call.requests)
    return replace(call, requests=requests, told=_told(fields))


def _validate(body: object) -> tuple[ResponsesRequest, list[str]]:
    """The request, and the names of what it holds that is ignored."""
    fields, ignored = read_fields(ResponsesRequest, body, IGNORED_IN_RESPONSES)
    for name, neutral in NEUTRAL_IN_RESPONSES.items():
        value = getattr(fields, name)
        if value is not None and value not in neutral:
            served = " other than " + " or ".join(map(json.dumps, neutral)) if neutral else ""
            message = f"{name} is not supported{served}: nothing is kept here, so each request brings all it needs."
            raise ApiError("unsupported_parameter", message, name)
    for i, included in enumerate(fields.include or ()):
        if included != LOGPROBS:
            ignored.append(f"include.{i}")
    if not isinstance(fields.input, str):
        _check_items(fields.input)
    if fields.stream_options and fields.stream_options.include_usage is not None:
        ignored.append("stream_options.include_usage")
    if fields.text is not None and fields.text.verbosity is not None:
        ignored.append("text.verbosity")
    if fields.parallel_tool_calls is not None and not fields.tools:
        ignored.append("parallel_tool_calls")
    return fields, ignored


def _check_items(items: Sequence[Item]) -> None:
    """Outputs are of calls before them; an answer may go on with what the assistant said last, but not with a call."""
    called = set()
    for i, item in enumerate(items):
        if isinstance(item, CallItem):
            called.add(item.call_id)
        elif isinstance(item, CallOutputItem) and item.call_id not in called:
            path = f"input.{i}.call_id"
            raise ApiError("invalid_value", f"{path} is the id of no function_call before it.", path)
    last, path = items[-1], f"input.{len(items) - 1}"
    if isinstance(last, CallItem):
        raise ApiError("invalid_value", f"{path} must be followed by its function_call_output.", path)
    if isinstance(last, ReasoningItem):
        raise ApiError("invalid_value", f"{path} must be followed by what was said or called after it.", path)
    if isinstance(last, MessageItem) and last.role == "assistant" and not _text(last.content).strip():
        message = f"{path}.content is empty, and so nothing that the answer could continue: leave it out."
        raise ApiError("invalid_value", message, f"{path}.content")


def _chat(fields: ResponsesRequest) -> dict[str, object]:
    """What a chat would say; what is not given is left out."""
    logprobs = LOGPROBS in (fields.include or ()) or fields.top_logprobs is not None
    body: dict[str, object] = {
        "model": fields.model,
        "messages": list(_messages(fields)),
        "max_completion_tokens": fields.max_output_tokens,
        "temperature": fields.temperature,
        "top_p": fields.top_p,
        "logprobs": logprobs or None,
        "top_logprobs": fields.top_logprobs,
        "service_tier": fields.service_tier,
        "stream": fields.stream,
        "seed": fields.seed,
        "parallel_tool_calls": fields.parallel_tool_calls,
        "tool_choice": _tool_choice(fields),
        "response_format": _response_format(fields.text.format if fields.text else None),
        "tools": [
            {"type": "function", "function": tool.model_dump(include={"name", "description", "parameters", "strict"})}
            for tool in fields.tools or ()
        ],
    }
    return {key: value for key, value in body.items() if value is not None}


def _messages(fields: ResponsesRequest) -> Iterator[Turn]:
    """Items of the assistant's that follow each other are one message: what it thought, said and called."""
    if fields.instructions:
        yield {"role": "system", "content": fields.instructions}
    if isinstance(fields.input, str):
        yield {"role": "user", "content": fields.input}
        return
    turn: Turn = {}
    for item in fields.input:
        if isinstance(item, CallOutputItem):
            said: Turn | None = {"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)}
        elif isinstance(item, MessageItem) and item.role != "assistant":
            said = {"role": item.role, "content": _text(item.content)}
        else:
            said = None
        if turn and (said is not None or not _adds(turn, item)):
            yield _complete(turn)
            turn = {}
        if said is not None:
            yield said
        elif isinstance(item, MessageItem | CallItem | ReasoningItem):
            _add(turn, item)
    if turn:
        yield _complete(turn)


def _adds(turn: Turn, item: object) -> bool:
    """Whether an item of the assistant's goes on with the turn."""
    if isinstance(item, MessageItem):
        return "content" not in turn and "tool_calls" not in turn
    return isinstance(item, CallItem)


def _add(turn: Turn, item: MessageItem | CallItem | ReasoningItem) -> None:
    turn["role"] = "assistant"
    if isinstance(item, MessageItem):
        turn["content"] = _text(item.content)
    elif isinstance(item, ReasoningItem):
        turn["reasoning_content"] = _text(item.content or item.summary)
    else:
        calls = turn.setdefault("tool_calls", [])
        function = {"name": item.name, "arguments": item.arguments}
        if isinstance(calls, list):
            calls.append({"id": item.call_id, "type": "function", "function": function})


def _complete(turn: Turn) -> Turn:
    return {"content": "", **turn}


def _text(content: str | Sequence[ItemText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _tool_choice(fields: ResponsesRequest) -> object:
    choice = fields.tool_choice
    return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, ResponseNamedTool) else choice


def _response_format(form: TextForm | None) -> Mapping[str, object] | None:
    if isinstance(form, ResponseJsonSchema):
        return {"type": "json_schema", "json_schema": {"name": form.name, "schema": form.json_schema}}
    return {"type": "json_object"} if isinstance(form, JsonObjectFormat) else None


def _told(fields: ResponsesRequest) -> Mapping[str, object]:
    """Of the request, as OpenAI's replies have it."""
    form = fields.text.format if fields.text and fields.text.format else None
    choice = fields.tool_choice
    return {
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "metadata": dict(fields.metadata or {}),
        "parallel_tool_calls": fields.parallel_tool_calls is not False,
        "temperature": 1.0 if fields.temperature is None else fields.temperature,
        "text": {"format": form.model_dump(by_alias=True) if form else {"type": "text"}},
        "tool_choice": choice.model_dump() if isinstance(choice, ResponseNamedTool) else choice or "auto",
        "tools": [
            tool.model_dump(include={"type", "name", "description", "parameters", "strict"})
            for tool in fields.tools or ()
        ],
        "top_logprobs": fields.top_logprobs or 0,
        "top_p": 1.0 if fields.top_p is None else fields.top_p,
    }
