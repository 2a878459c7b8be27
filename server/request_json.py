"""JSON that means one thing only: UTF-8, no duplicate keys, finite numbers, bounded depth and size.

Python's own parser takes NaN, 1e999, lone surrogates, 4,000-digit integers and the last of two equal keys.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from server.errors import ApiError

MAX_DEPTH = 64
MAX_ITEMS = 100_000
"""Keys, objects and arrays together."""
MAX_DIGITS = 40
"""Of an integer."""

# Possessive, and the closing quote optional: one pass whatever comes.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{}:"))
_STEP = {**dict.fromkeys(b"[{", 1), **dict.fromkeys(b"]}", -1), ord(":"): 0}

_Path = tuple["_Path", str | int] | None
"""A linked list from the leaf up: rendered for an error alone."""


class _TooManyDigits:
    """Stands in the tree for an integer that was too long to convert, until its path is known."""


class _Duplicate:
    """Stands in the tree for an object that had `key` twice."""

    def __init__(self, key: str) -> None:
        self.key = key


def parse(body: bytes, field: str | None = None) -> object:
    """The value that `body` stands for; raises `ApiError`. field: the path of a string that holds a document."""
    text = _decode(body, field)
    _check_structure(body, field)
    try:
        tree = json.loads(text, parse_int=_parse_int, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise _invalid(field, f"is not valid JSON: {error}") from None
    _check_values(tree, None if field is None else (None, field))
    return tree


def _decode(body: bytes, field: str | None) -> str:
    """UTF-8 alone. (`json.loads` of bytes would take UTF-16 and UTF-32 as well.)"""
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise _invalid(field, "must be UTF-8 without a byte order mark")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise ApiError("invalid_unicode", f"The body must be UTF-8 (byte {error.start} is not).", field) from None


def _check_structure(body: bytes, field: str | None) -> None:
    """Depth and number of items by a scan, before the recursive parser sees them."""
    structure = _STRING.sub(b"", body).translate(None, _NOT_STRUCTURE)
    if structure.count(b":") + structure.count(b"[") + structure.count(b"{") > MAX_ITEMS:
        raise _invalid(field, f"may hold at most {MAX_ITEMS:,} keys, objects and arrays together")
    if any(depth > MAX_DEPTH for depth in accumulate(map(_STEP.__getitem__, structure))):
        raise _invalid(field, f"may be nested at most {MAX_DEPTH} levels deep")


def _invalid(field: str | None, sentence: str) -> ApiError:
    return ApiError("invalid_json", f"{field or 'The body'} {sentence}.", field)


def _parse_int(digits: str) -> int | _TooManyDigits:
    return int(digits) if len(digits.lstrip("-")) <= MAX_DIGITS else _TooManyDigits()


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object] | _Duplicate:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    counts = Counter(key for key, _ in pairs)
    return _Duplicate(next(key for key, count in counts.items() if count > 1))


def _check_values(tree: object, where: _Path) -> None:
    for path, value in _walk(tree, where):
        if isinstance(value, float) and not math.isfinite(value):
            raise ApiError("non_finite_number", f"{_dotted(path)} must be a finite number.", _dotted(path))
        if isinstance(value, _TooManyDigits):
            message = f"{_dotted(path)} must be a number of at most {MAX_DIGITS} digits."
            raise ApiError("integer_above_max_value", message, _dotted(path))
        if isinstance(value, _Duplicate):
            param = _dotted((path, value.key))
            raise ApiError("duplicate_key", f"{param} is given twice.", param)
        if isinstance(value, str) and not _is_encodable(value):
            message = f"{_dotted(path)} has a lone surrogate, which is half a character."
            raise ApiError("invalid_unicode", message, _dotted(path))


def _walk(tree: object, where: _Path) -> Iterator[tuple[_Path, object]]:
    """Every value with its path (but the integers of arrays), and every key as a value at its own path."""
    stack = [(where, tree)]
    while stack:
        path, value = stack.pop()
        yield path, value
        if isinstance(value, dict):
            for key, item in value.items():
                yield (path, key), key
                stack.append(((path, key), item))
        elif isinstance(value, list):
            # Integers are always right: a prompt may be a very long list of them.
            stack.extend(((path, index), item) for index, item in enumerate(value) if type(item) is not int)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _dotted(path: _Path) -> str:
    parts: list[str] = []
    while path is not None:
        path, part = path
        parts.append(str(part))
    return ".".join(reversed(parts))
