"""Messages of the wire -> turns as chat templates take them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from server.errors import ApiError
from server.schemas.openai import Message
from server.serving import Served
from server.translate.call import too_long
from steering.model.chat import Tool, Turn, encode_chat


def turns(messages: Sequence[Message]) -> list[Turn]:
    """Raises where a message lacks what its role needs."""
    called: dict[str, str] = {}
    """Id -> function, of all calls so far."""
    told = []
    for i, message in enumerate(messages):
        _check(message, called, f"messages.{i}")
        called |= {call.id: call.function.name for call in message.tool_calls or ()}
        told.append(_turn(message, called))
    return told


def check_size(messages: Sequence[Turn], tools: Sequence[Tool] | None, served: Served, prompt: str) -> None:
    """Refuses what is far too long without encoding it: megabytes take a tokenizer seconds."""
    least = sum(_num_bytes(message["content"]) for message in messages) // served.longest_token
    if least >= served.engine.context:
        raise too_long(served.engine.context, f"at least {least}", prompt)
    least = _num_bytes(tools) // served.longest_token
    if least >= served.engine.context:
        raise too_long(served.engine.context, f"at least {least}", "tools")


def encode(said: Sequence[Turn], tools: Sequence[Tool] | None, served: Served, prompt: str) -> list[int]:
    """By the model's template. Calls and reasoning may be what is far too long, or what the template leaves out: so
    what it wrote is looked at again."""

    def check(rendered: str) -> None:
        least = len(rendered.encode()) // served.longest_token
        if least >= served.engine.context:
            raise too_long(served.engine.context, f"at least {least}", prompt)

    return encode_chat(served.model, said, tools, check=check)


def check_last(said: Sequence[Turn]) -> None:
    """A text goes on with what the assistant said last, but not with what it called."""
    turn, path = said[-1], f"messages.{len(said) - 1}"
    if turn["role"] == "assistant" and "tool_calls" in turn:
        message = f"{path}.tool_calls must be followed by what came of them."
        raise ApiError("invalid_value", message, f"{path}.tool_calls")


def _num_bytes(value: object) -> int:
    """Of all texts in it, which templates write as JSON, keys and all."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Mapping):
        return sum(map(_num_bytes, value.keys())) + sum(map(_num_bytes, value.values()))
    return sum(map(_num_bytes, value)) if isinstance(value, list | tuple) else 0


def _check(message: Message, called: Mapping[str, str], path: str) -> None:
    is_call = message.role == "assistant" and bool(message.tool_calls)
    if message.content is None and not is_call:
        is_missing = "content" not in message.model_fields_set
        code, says = (
            ("missing_required_parameter", "is required") if is_missing else ("invalid_type", "must not be null")
        )
        raise ApiError(code, f"{path}.content {says}; only the assistant's may be, with tool_calls.", f"{path}.content")
    if message.role != "assistant":
        for name in ("tool_calls", "reasoning_content"):
            if getattr(message, name):
                raise ApiError("invalid_value", f"{path}.{name} is only the assistant's.", f"{path}.{name}")
    param = f"{path}.tool_call_id"
    if message.role != "tool":
        if message.tool_call_id is not None:
            raise ApiError("invalid_value", f"{param} is only of messages with role tool.", param)
    elif message.tool_call_id is None:
        raise ApiError("missing_required_parameter", f"{param} is required: which call this answers.", param)
    elif message.tool_call_id not in called:
        raise ApiError("invalid_value", f"{param} is the id of no call in an assistant's message before it.", param)


def _turn(message: Message, called: Mapping[str, str]) -> Turn:
    turn: dict[str, object] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.text,
    }
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": json.loads(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.reasoning_content is not None:
        turn["reasoning_content"] = message.reasoning_content
    if message.tool_call_id is not None:
        turn |= {"tool_call_id": message.tool_call_id, "name": called[message.tool_call_id]}
    return turn
