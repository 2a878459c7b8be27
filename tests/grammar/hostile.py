"""Schemas that take time, memory or sense away."""

from __future__ import annotations

from typing import Any


def _doubling(depth: int) -> dict[str, Any]:
    """Each definition is two of the one before: 2 ** depth parts."""
    defs: dict[str, Any] = {"d0": {"type": "string", "minLength": 1}}
    for i in range(1, depth):
        defs[f"d{i}"] = {"allOf": [{"$ref": f"#/$defs/d{i - 1}"}, {"$ref": f"#/$defs/d{i - 1}"}]}
    return {"$defs": defs, "$ref": f"#/$defs/d{depth - 1}"}


def _product(factors: int) -> dict[str, Any]:
    """All of several choices: as many objects as there are ways to choose."""

    def either(i: int) -> dict[str, Any]:
        names = [f"p{i}_{j}" for j in range(20)]
        return {"anyOf": [{"type": "object", "properties": {n: {"type": "null"}}, "required": [n]} for n in names]}

    return {"allOf": [either(i) for i in range(factors)]}


HOSTILE: dict[str, dict[str, Any]] = {
    "endless reference": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "outside reference": {"$ref": "http://127.0.0.1:1/schema.json"},
    "file reference": {"$ref": "file:///etc/passwd"},
    "10,000 values": {"enum": [f"value number {i}" for i in range(10_000)]},
    "product": _product(6),
    "all of many patterns": {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}c"} for i in range(10, 60)]},
    "2,000 optional properties": {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(2000)}},
    "look-around": {"type": "string", "pattern": "^(?=a)a+$"},
    "wrong pattern": {"type": "string", "pattern": "("},
    "nothing": {"enum": []},
    "contradiction": {"type": "integer", "minimum": 3, "maximum": 2},
}
TIMED_OUT = "all of many patterns"
HARMLESS: dict[str, dict[str, Any]] = {
    "nested repetition": {"type": "string", "pattern": "^(a+)+$"},
    "counting pattern": {"type": "string", "pattern": "^(((a{1,99}){1,99}){1,99}){1,99}$"},
    "doubling": _doubling(40),
    "endless object": {
        "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}},
        "$ref": "#/$defs/a",
    },
}
"""What others run out of time or memory with; the last has no end, so an answer ends at `max_tokens`."""
