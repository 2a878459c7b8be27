"""Whether a value is what a schema describes: the keywords that the tests use, each by its definition."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def valid(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> bool:
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return valid(value, target, root)
    return (
        _simple(value, schema)
        and (_object(value, schema, root) and _array(value, schema, root))
        and ("anyOf" not in schema or any(valid(value, one, root) for one in schema["anyOf"]))
    )


def _simple(value: Any, schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type")
    if kinds is not None:
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not any(isinstance(value, _TYPES[k]) and (k == "boolean" or not isinstance(value, bool)) for k in kinds):
            return False
    if "enum" in schema and json.dumps(value) not in [json.dumps(one) for one in schema["enum"]]:
        return False
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**6):
            return False
        return "pattern" not in schema or re.search(schema["pattern"], value) is not None
    if isinstance(value, int | float):
        return bool(schema.get("minimum", -1e300) <= value <= schema.get("maximum", 1e300))
    return True


def _object(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    if not all(name in value for name in schema.get("required", ())):
        return False
    for name, item in value.items():
        wanted = known.get(name, others)
        if wanted is False or (wanted is not True and not valid(item, wanted, root)):
            return False
    return True


def _array(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    if not isinstance(value, list):
        return True
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**6):
        return False
    return "items" not in schema or all(valid(item, schema["items"], root) for item in value)
