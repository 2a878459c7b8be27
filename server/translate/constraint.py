"""What answers must be -> a constraint of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from server.errors import ApiError
from server.schemas.response_format import JsonSchemaFormat, ResponseFormat, TextFormat
from server.translate.call import Call
from server.translate.names import Names
from steering.engine.constraint import Constraint
from steering.errors import InvalidSchema, SchemaTooComplex
from steering.grammar.call_grammar import CallsShape
from steering.grammar.compiler import GrammarCompiler, Shape
from steering.grammar.json_grammar import ANY_OBJECT

MAX_TRIED = 4
"""Functions whose schemas are tried one by one, to say which of them it is."""
_OPTIONS = "x-guidance"
"""A key by which a schema would change what the grammar library promises."""


def schema_of(response_format: ResponseFormat | None, names: Names) -> Mapping[str, object] | None:
    """Of the JSON that an answer must be; None: any text."""
    if response_format is None or isinstance(response_format, TextFormat):
        return None
    if not isinstance(response_format, JsonSchemaFormat):
        return ANY_OBJECT
    schema = response_format.json_schema.json_schema
    check_schema(schema, names.schema)
    return schema


def check_schema(schema: Mapping[str, object], param: str) -> None:
    """Refuses what would change the rules."""
    if _has_key(schema, _OPTIONS):
        raise ApiError("unsupported_parameter", f"{param}: the key {_OPTIONS} is not supported.", param)


def _has_key(value: object, key: str) -> bool:
    """Bounded, since what a body holds is nested no deeper than its parser allows."""
    if isinstance(value, dict):
        return key in value or any(_has_key(item, key) for item in value.values())
    return isinstance(value, list) and any(_has_key(item, key) for item in value)


def compile_shape(compiler: GrammarCompiler, shape: Shape, names: Names) -> Constraint:
    """Takes up to seconds: not for the event loop."""
    try:
        return compiler.compile(shape)
    except SchemaTooComplex as error:
        param = "tools" if isinstance(shape, CallsShape) else names.schema
        raise ApiError("unsupported_parameter", f"{param}: {error}", param) from None
    except InvalidSchema as error:
        param, where = _culprit(compiler, shape, names)
        raise ApiError("invalid_value", f"{where}: {error}", param) from None


def _culprit(compiler: GrammarCompiler, shape: Shape, names: Names) -> tuple[str, str]:
    """(Field, where in it) of the schema that is none by itself, if it is among the first."""
    if not isinstance(shape, CallsShape) or (shape.or_json is not None and _is_invalid(compiler, shape.or_json)):
        return names.schema, names.schema
    bad = (f.name for f in shape.functions[:MAX_TRIED] if _is_invalid(compiler, f.parameters))
    return "tools", next((f"tools, parameters of {name}" for name in bad), "tools")


def _is_invalid(compiler: GrammarCompiler, schema: Mapping[str, object]) -> bool:
    try:
        compiler.compile(schema)
    except (InvalidSchema, SchemaTooComplex) as error:
        return isinstance(error, InvalidSchema)
    return False


def constrain(call: Call, constraint: Constraint) -> Call:
    """The same call, all its answers constrained."""
    requests = [replace(r, sampling=replace(r.sampling, constraint=constraint)) for r in call.requests]
    return replace(call, requests=tuple(requests), shape=None)
