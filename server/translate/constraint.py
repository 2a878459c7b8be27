"""`response_format` -> a constraint of the answers."""

from __future__ import annotations

from dataclasses import replace

from server.errors import ApiError
from server.schemas.response_format import JsonSchemaFormat, ResponseFormat, TextFormat
from server.translate.call import Call, Schema
from steering.engine.constraint import Constraint
from steering.errors import InvalidSchema, SchemaTooComplex
from steering.grammar.compiler import GrammarCompiler
from steering.grammar.json_grammar import ANY_OBJECT

PARAM = "response_format.json_schema.schema"
_OPTIONS = "x-guidance"
"""A key by which a schema would change what the grammar library promises."""


def schema_of(response_format: ResponseFormat | None) -> Schema | None:
    """What an answer must be; None: any text."""
    if response_format is None or isinstance(response_format, TextFormat):
        return None
    if not isinstance(response_format, JsonSchemaFormat):
        return ANY_OBJECT
    schema = response_format.json_schema.json_schema
    if _has_key(schema, _OPTIONS):
        raise ApiError("unsupported_parameter", f"{PARAM}: the key {_OPTIONS} is not supported.", PARAM)
    return schema


def _has_key(value: object, key: str) -> bool:
    """Bounded, since what a body holds is nested no deeper than its parser allows."""
    if isinstance(value, dict):
        return key in value or any(_has_key(item, key) for item in value.values())
    return isinstance(value, list) and any(_has_key(item, key) for item in value)


def compile_schema(compiler: GrammarCompiler, schema: Schema) -> Constraint:
    """Takes up to seconds: not for the event loop."""
    try:
        return compiler.compile(schema)
    except SchemaTooComplex as error:
        raise ApiError("unsupported_parameter", f"{PARAM}: {error}", PARAM) from None
    except InvalidSchema as error:
        raise ApiError("invalid_value", f"{PARAM}: {error}", PARAM) from None


def constrain(call: Call, constraint: Constraint) -> Call:
    """The same call, all its answers constrained."""
    requests = [replace(r, sampling=replace(r.sampling, constraint=constraint)) for r in call.requests]
    return replace(call, requests=tuple(requests), schema=None)
