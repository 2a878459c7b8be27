"""JSON of untrusted files: no repeated keys, no unknown ones, no wrong types, no NaN. Every fault of a pack's JSON is
`PackCorrupt`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from steering.errors import PackCorrupt, PackKeyUnknown

Types = Mapping[str, type | tuple[type, ...]]
NUMBER = (int, float)
MAX_DEPTH = 64
"""Of a pack's JSON: whoever writes it out again may stand deep in a stack already."""


def strict_loads(raw: bytes | str) -> object:
    """`json.loads` that takes no repeated key and nothing that is not finite. Raises ValueError; RecursionError where
    nested too deep."""
    value: object = json.loads(raw, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    return value


def parse_object(raw: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `raw`. It can be written as JSON again, and in UTF-8."""
    try:
        value = strict_loads(raw)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise PackCorrupt(f"{where} has a lone surrogate, which is half a character.") from error
    except (ValueError, RecursionError) as error:
        raise PackCorrupt(f"{where} is not valid JSON: {error}.") from error
    if _depth(value) > MAX_DEPTH:
        raise PackCorrupt(f"{where} is nested more than {MAX_DEPTH} levels deep.")
    if not isinstance(value, dict):
        raise PackCorrupt(f"{where} must be an object.")
    return value


def read_fields(value: object, where: str, types: Types) -> dict[str, Any]:
    """`value` as an object with exactly the keys of `types`, each of its type; numbers are finite."""
    if not isinstance(value, dict):
        raise PackCorrupt(f"{where} must be an object.")
    for key in sorted(value.keys() ^ types.keys()):
        if key in value:
            raise PackKeyUnknown(f"{where}: key {key[:40]!r} is unknown.", key=f"{where}.{key}")
        raise PackCorrupt(f"{where}: key {key[:40]!r} is missing.")
    for key, kind in types.items():
        item = value[key]
        if not isinstance(item, kind) or (isinstance(item, bool) and kind is not bool):
            raise PackCorrupt(f"{where}.{key} has the wrong type ({type(item).__name__}).")
        if isinstance(item, NUMBER) and not (abs(item) < 2**53 and math.isfinite(item)):
            raise PackCorrupt(f"{where}.{key} is not a finite number below 2**53.")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key is given twice")
    return result


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is no number that can be held")
    return number


def _depth(value: object) -> int:
    """Levels of objects and arrays in one another."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [one for item in level for one in (item.values() if isinstance(item, dict) else item)]
    return depth
