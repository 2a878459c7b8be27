"""A call as JSON: where its object ends, found as the text comes, and what it calls."""

from __future__ import annotations

import json
import re

_OUTSIDE = re.compile(r'[^"{}\[\]]*')
"""Up to what the structure hangs on, outside strings."""
_FOREIGN = re.compile(r"[^\s:,0-9+\-.eEtrufalsn]")
"""What no JSON has there."""
_STRING = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)


class ObjectScan:
    """Of one object that a text begins with. Each character is looked at once."""

    def __init__(self) -> None:
        self.at = 0
        """Characters read."""
        self.inner_end: int | None = None
        """Where the first object or array within it ended."""
        self.malformed = False
        """It can be no JSON, whatever follows."""
        self._depth = 0
        self._in_string = False

    def take(self, text: str) -> int | None:
        """text: all of it so far. Characters of the object, once it has ended."""
        while self.at < len(text) and not self.malformed:
            if self._in_string and not self._ends_string(text):
                return None
            if self.at == len(text):
                return None
            match = _OUTSIDE.match(text, self.at)
            end = match.end() if match else self.at
            if foreign := _FOREIGN.search(text, self.at, end):
                self.malformed, self.at = True, foreign.start()
                return None
            self.at = end
            if self.at < len(text) and self._structure(text[self.at]):
                return self.at
        return None

    def _ends_string(self, text: str) -> bool:
        """Goes to its end, or as far as it goes: half an escape is left for later."""
        match = _STRING.match(text, self.at)
        self.at = match.end() if match else self.at
        if text[self.at : self.at + 1] != '"':
            return False
        self.at += 1
        self._in_string = False
        return True

    def _structure(self, char: str) -> bool:
        """Whether the object ends with it."""
        self.at += 1
        if char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        else:
            self._depth -= 1
            if self._depth == 1 and self.inner_end is None:
                self.inner_end = self.at
        return self._depth == 0


def read_call(text: str, functions: frozenset[str]) -> tuple[str, str] | None:
    """(function, arguments as they were written) of a JSON object that calls one of them; None: it does not."""
    try:
        members = dict(_members(text))
    except (ValueError, RecursionError):
        return None
    name, _ = members.get("name", (None, ""))
    key = "arguments" if "arguments" in members else "parameters"
    arguments, written = members.get(key, (None, ""))
    if not isinstance(name, str) or name not in functions or not isinstance(arguments, dict):
        return None
    return name, written


def _members(text: str) -> list[tuple[str, tuple[object, str]]]:
    """Of a JSON object: keys, each with its value and how that was written. Raises `ValueError`."""
    _DECODER.decode(text)  # as a whole it is JSON: what follows need not ask
    members, at = list[tuple[str, tuple[object, str]]](), _space(text, 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        start = _space(text, _space(text, at) + 1)  # after the colon
        value, end = _DECODER.raw_decode(text, start)
        members.append((key, (value, text[start:end])))
        at = _space(text, end)
        at = _space(text, at + 1) if text[at] == "," else at
    return members


def _space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
