"""`tools` and what belongs to them, as OpenAI has it in chats."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Tag
from pydantic_core import PydanticCustomError

from server.schemas.strict import Strict, by_json_type

MAX_TOOLS = 128
MAX_CALLS = 128
"""Of one message."""
MAX_ARGUMENTS = 1024 * 1024
"""Characters of the arguments of an earlier call."""
MAX_DEPTH = 64
"""Of these arguments, as of a body."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})


def _name(text: str) -> str:
    if _NAME.fullmatch(text) is None:
        raise PydanticCustomError("invalid_value", "must be 1 to 64 letters, digits, '_' or '-'")
    return text


def _parameters(schema: dict[str, object]) -> dict[str, object]:
    if schema.get("type", "object") != "object":
        raise PydanticCustomError("invalid_value", 'must be the schema of an object ("type": "object")')
    if problem := _problem(schema):
        raise PydanticCustomError("invalid_value", "is no JSON schema: {problem}", {"problem": problem})
    return schema


def _problem(schema: object) -> str | None:
    """What is wrong with the parts of a schema that every model is told; what it forbids is the grammar's to know."""
    if isinstance(schema, bool):
        return None
    if not isinstance(schema, dict):
        return "a schema must be an object or a boolean"
    types = schema.get("type", [])
    if not all(isinstance(t, str) and t in _TYPES for t in (types if isinstance(types, list) else [types])):
        return f"type must be among {', '.join(sorted(_TYPES))}"
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        return "required must be an array of strings"
    if not isinstance(schema.get("properties", {}), dict):
        return "properties must be an object"
    return next(filter(None, map(_problem, _parts(schema))), None)


def _parts(schema: Mapping[str, object]) -> list[object]:
    """The schemas in it."""
    parts: list[object] = [schema["items"]] if isinstance(schema.get("items"), dict | bool | str | int) else []
    for key in ("properties", "$defs", "definitions"):
        named = schema.get(key)
        parts += named.values() if isinstance(named, dict) else []
    for key in ("anyOf", "allOf", "oneOf", "prefixItems"):
        several = schema.get(key)
        parts += several if isinstance(several, list) else []
    return parts


def _arguments(text: str) -> str:
    """JSON of an object, as replies have it; what stands for no arguments is taken too."""
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite) if text.strip() else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or _is_deep(value):
        raise PydanticCustomError("invalid_value", "must be a string with the JSON of an object")
    return text if text.strip() else "{}"


def _finite(digits: str) -> float:
    """Raises ValueError for what JSON has no number for."""
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(digits)
    return number


def _is_deep(value: object) -> bool:
    """Deeper than templates could write it."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
        level = [part for part in level if isinstance(part, dict | list)]
    return bool(level)


FunctionName = Annotated[str, Field(json_schema_extra={"pattern": f"^{_NAME.pattern}$"}), AfterValidator(_name)]
Parameters = Annotated[dict[str, object], AfterValidator(_parameters)]
Arguments = Annotated[str, Field(max_length=MAX_ARGUMENTS), AfterValidator(_arguments)]
CallId = Annotated[str, Field(min_length=1, max_length=256)]


class FunctionTool(Strict):
    name: FunctionName
    description: str | None = Field(default=None, max_length=16_384)
    parameters: Parameters | None = None
    """A JSON schema of the arguments; none: it takes none."""
    strict: bool | None = None
    """Arguments hold to the schema also where the model may call or not. Where it has to call they always do."""


class Tool(Strict):
    """A function that the model may ask to call."""

    type: Literal["function"]
    function: FunctionTool


class NamedFunction(Strict):
    name: FunctionName


class NamedTool(Strict):
    type: Literal["function"]
    function: NamedFunction


ToolMode = Literal["none", "auto", "required"]
ToolChoice = Annotated[
    Annotated[ToolMode, Tag("form:mode")] | Annotated[NamedTool, Tag("form:function")],
    by_json_type(
        {str: "form:mode", dict: "form:function"}, '"none", "auto", "required" or an object that names a function'
    ),
]


class CalledFunction(Strict):
    name: FunctionName
    arguments: Arguments
    """JSON of an object."""


class ToolCall(Strict):
    """A call of an earlier turn."""

    id: CallId
    type: Literal["function"]
    function: CalledFunction
