"""Rules between fields, as JSON Schema says them. They describe; what checks them, with a message for each, is in
`server.translate`. A rule about equal values or earlier items cannot be said: it stands in the field's own words."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def of(**properties: Schema) -> Schema:
    """These fields are there, and like this."""
    return {"required": list(properties), "properties": properties}


def only_with(field: str, *others: Schema, unless: Schema | None = None) -> Schema:
    """A field that asks for something (unless: for what it may be by itself, null if not said) needs one of these."""
    harmless = {"properties": {field: unless or NULL}}
    return {field: {"anyOf": [harmless, *others]}}


def absent(*fields: str) -> Schema:
    """Or null, or empty."""
    return {"properties": dict.fromkeys(fields, EMPTY)}


NULL: Schema = {"type": "null"}
EMPTY: Schema = {"enum": [None, "", []]}
GIVEN: Schema = {"not": NULL}
TRUE: Schema = {"const": True}
SOME: Schema = {"type": "array", "minItems": 1}
