"""`tools` of a request -> what the template is told, how its answer is read, and what that is made to be."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.errors import ApiError
from server.schemas.openai import ChatRequest
from server.schemas.tools import FunctionTool, NamedTool, ToolChoice
from server.serving import Served
from server.translate.constraint import check_schema
from server.translate.names import Names
from steering.grammar.call_grammar import NO_ARGUMENTS, CallsShape, Function, reserved_tokens
from steering.grammar.compiler import Shape
from steering.grammar.json_grammar import ANY_OBJECT
from steering.model.call_format import CallFormat, call_format
from steering.model.chat import Tool
from steering.model.markers import markers_of

MAX_PARALLEL = 16
"""Calls in one answer that has to call."""
_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Toolbox:
    """What one request may call."""

    tools: tuple[Tool, ...] | None = None
    """As templates take them; None: there are none."""
    format: CallFormat | None = None
    functions: frozenset[str] = frozenset()
    shape: Shape | None = None
    """What its answers must be."""
    shown: frozenset[int] = frozenset()
    """Tokens by which calls are known."""


def toolbox(chat: ChatRequest, schema: Mapping[str, object] | None, served: Served, names: Names) -> Toolbox:
    """schema: of the answer's JSON, where it has to be JSON. Raises where the model cannot be told of tools, or where a
    choice does not fit them."""
    functions = [tool.function for tool in chat.tools or ()]
    choice = chat.tool_choice or "auto"
    _check(functions, choice, names)
    if not functions or choice == "none":
        return Toolbox(shape=schema)
    form = call_format(served.model)
    return Toolbox(
        tools=tuple(_told(function) for function in functions),
        format=form,
        functions=frozenset(function.name for function in functions),
        shape=_shape(chat, schema, form, served, names),
        shown=frozenset(reserved_tokens(form.marks, served.model).values()),
    )


def new_call_id(form: CallFormat | None) -> str:
    if form is not None and form.short_ids:
        return "".join(secrets.choice(_ALPHABET) for _ in range(9))
    return f"call_{secrets.token_hex(12)}"


def _check(functions: Sequence[FunctionTool], choice: ToolChoice, names: Names) -> None:
    known = [function.name for function in functions]
    for i, name in enumerate(known):
        param = names.function(i)
        if name in known[:i]:
            raise ApiError("invalid_value", f"{param}.name {name!r} is there twice.", f"{param}.name")
        check_schema(functions[i].parameters or {}, f"{param}.parameters")
    if choice == "required" and not known:
        raise ApiError("invalid_value", "tool_choice is only allowed with tools.", "tool_choice")
    if isinstance(choice, NamedTool) and choice.function.name not in known:
        told = ", ".join(known[:10]) or "none"
        message = f"{names.choice} {choice.function.name!r} is not among the tools ({told})."
        raise ApiError("invalid_value", message, names.choice)


def _told(function: FunctionTool) -> Tool:
    """`description` and `parameters` are always there: templates do not ask."""
    return {
        "type": "function",
        "function": {
            "name": function.name,
            "description": function.description or "",
            "parameters": function.parameters or {"type": "object", "properties": {}},
        },
    }


def _shape(
    chat: ChatRequest, schema: Mapping[str, object] | None, form: CallFormat, served: Served, names: Names
) -> Shape | None:
    """Of answers that have to call, that may call and else are JSON, or in which a promise is made of a call."""
    choice, functions = chat.tool_choice or "auto", [tool.function for tool in chat.tools or ()]
    most = 1 if chat.parallel_tool_calls is False or form.marker is None else MAX_PARALLEL
    tokens = reserved_tokens(form.marks, served.model)
    if isinstance(choice, NamedTool):
        named = [function for function in functions if function.name == choice.function.name]
        return CallsShape(_shapes(named), form, most=1, tokens=tuple(tokens.items()))
    if choice == "required":
        return CallsShape(_shapes(functions), form, most=most, tokens=tuple(tokens.items()))
    strict = next((i for i, function in enumerate(functions) if function.strict), None)
    if schema is None and strict is None and chat.parallel_tool_calls is not False:
        return None
    if schema is None and form.marker is not None and form.marker.opens not in tokens:
        what = "parallel_tool_calls" if strict is None else f"{names.function(strict)}.strict"
        message = f"{what} cannot be promised for this model beside tool_choice auto: its calls begin with plain text."
        raise ApiError("unsupported_parameter", message, what)
    reasoning = [text for m in markers_of(served.model.tokenizer).reasoning for text in (m.opens, m.closes or "")]
    return CallsShape(
        _shapes(functions, only_strict=True),
        form,
        most=most,
        or_text=schema is None,
        or_json=schema,
        tokens=tuple(tokens.items()),
        spare=tuple(reserved_tokens(reasoning, served.model).values()),
    )


def _shapes(functions: Sequence[FunctionTool], *, only_strict: bool = False) -> tuple[Function, ...]:
    """only_strict: arguments of the others are any object."""
    return tuple(
        Function(
            f.name, ANY_OBJECT if only_strict and not f.strict else {"type": "object", **(f.parameters or NO_ARGUMENTS)}
        )
        for f in functions
    )
