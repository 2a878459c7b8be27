"""Schemas that take time, memory or sense away."""

from __future__ import annotations

from typing import Any


def _doubling(depth: int) -> dict[str, Any]:
    """Each definition is two of the one before: 2 ** depth parts."""
    defs: dict[str, Any] = {"d0": {"type": "string", "minLength": 1}}
    for i in range(1, depth):
        defs[f"d{i}"] = {"allOf": [{"$ref": f"#/$defs/d{i - 1}"}, {"$ref": f"#/$defs/d{i - 1}"}]}
    return {"$defs": defs, "$ref": f"#/$defs/d{depth - 1}"}


HOSTILE: dict[str, dict[str, Any]] = {
    "endless reference": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "endless object": {
        "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}},
        "$ref": "#/$defs/a",
    },
    "outside reference": {"$ref": "http://127.0.0.1:1/schema.json"},
    "file reference": {"$ref": "file:///etc/passwd"},
    "10,000 values": {"enum": [f"value number {i}" for i in range(10_000)]},
    "doubling": _doubling(40),
    "counting pattern": {"type": "string", "pattern": "^(((a{1,99}){1,99}){1,99}){1,99}$"},
    "backtracking pattern": {"type": "string", "pattern": r"^(a+)+\\1$"},
    "wrong pattern": {"type": "string", "pattern": "("},
    "nothing": {"enum": []},
    "contradiction": {"type": "integer", "minimum": 3, "maximum": 2},
}
