"""An answer's text taken apart as it comes: what the model thinks, what it says, what it calls.

Nothing is lost and nothing raises: what begins like a call and is none (no JSON, no function that there is, no object
of arguments) comes back as the content it then is. Where the text is cut into pieces does not matter.

Own code, and not transformers' `ResponseParser` (new there): that raises where a call is no JSON, ends a call at the
first text that looks like the closing marker, even within a string, and knows Qwen's format alone of those served here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from steering.model.call_format import CallFormat
from steering.model.call_json import ObjectScan, read_call
from steering.model.markers import Marker

Kind = Literal["reasoning", "content", "call", "arguments"]

_HEAD = re.compile(r'\{\s*"name"\s*:\s*"(?P<name>[^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
"""Of a call up to its arguments, as templates write it."""


@dataclass(frozen=True)
class Part:
    """A piece of an answer. `call` begins a call of the function that is its text; its `arguments` follow, as JSON."""

    kind: Kind
    text: str


State = Callable[[list[Part]], bool]
"""Takes what it can of what came, and says whether another has to go on."""


@dataclass(frozen=True)
class AnswerForm:
    """What to look for in an answer."""

    calls: CallFormat | None = None
    functions: frozenset[str] = frozenset()
    """That may be called."""
    certain: bool = False
    """A grammar sees to it that what begins as a call is one: its arguments are told as they come. Else a call is told
    when it is whole, since until then it may turn out to be none."""
    reasoning: tuple[Marker, ...] = ()
    opened: Marker | None = None
    """Reasoning that the prompt ends in."""
    continues: bool = False
    """The answer goes on with a message, and so does not begin with reasoning."""


class AnswerParser:
    """Takes one answer."""

    def __init__(self, form: AnswerForm) -> None:
        self._form = form
        self._pending = ""
        """Came, and is not told yet."""
        self._ended = False
        self._thinks: Marker | None = form.opened
        self._fresh = True
        """Nothing of the present reasoning was told: space before it is left out."""
        self._raw = ""
        """What led to the call that is being read: it is content if that turns out to be none."""
        self._scan = ObjectScan()
        self.is_cut = False
        """It ended within the arguments of a call that was told."""
        self._told: int | None = None
        """Of the call that is being read, up to where its arguments are told; None: it is not told."""
        self._in_list = self._after_call = False
        self._state: State = self._reasoning if form.opened else self._first

    @property
    def is_between(self) -> bool:
        """Reasoning was closed, and nothing has come after it."""
        return self._state == self._after_reasoning

    @property
    def _first(self) -> State:
        """An answer that goes on with a message begins with a call only if a grammar made it one."""
        if not self._form.continues:
            return self._start
        return self._answer if self._form.certain else self._content

    def push(self, text: str) -> list[Part]:
        self._pending += text
        return self._run()

    def flush(self) -> list[Part]:
        """What was held back, at the end."""
        self._ended = True
        return self._run()

    def _run(self) -> list[Part]:
        parts: list[Part] = []
        while self._state(parts):
            pass
        return _merged(parts)

    def _start(self, parts: list[Part]) -> bool:
        """At the beginning: reasoning, or not."""
        text = self._pending.lstrip()
        for marker in self._form.reasoning:
            if text.startswith(marker.opens):
                self._thinks, self._pending = marker, text[len(marker.opens) :]
                return self._go(self._reasoning)
        if not self._ended and any(marker.opens.startswith(text) for marker in self._form.reasoning):
            return False
        return self._go(self._answer)

    def _reasoning(self, parts: list[Part]) -> bool:
        """Space around it is left out."""
        closes = (self._thinks and self._thinks.closes) or ""
        if self._fresh:
            self._pending = self._pending.lstrip()
        at = self._pending.find(closes) if closes else -1
        if at >= 0:
            parts.append(Part("reasoning", self._pending[:at].rstrip()))
            self._pending = self._pending[at + len(closes) :]
            return self._go(self._after_reasoning)
        safe = self._pending.rstrip() if self._ended else self._pending[: _safe(self._pending, closes)].rstrip()
        parts.append(Part("reasoning", safe))
        self._fresh &= not safe
        self._pending = "" if self._ended else self._pending[len(safe) :]
        return False

    def _after_reasoning(self, parts: list[Part]) -> bool:
        self._pending = self._pending.lstrip()
        return bool(self._pending) and self._go(self._answer)

    def _answer(self, parts: list[Part]) -> bool:
        """Where content begins; an answer may be a call without any marker."""
        calls, text = self._form.calls, self._pending.lstrip()
        if calls is None or calls.marker is not None:
            return self._go(self._content)
        if not text and not self._ended:
            return False
        if text.startswith("{"):
            self._raw, self._pending = self._pending[: -len(text)], text
            return self._go(self._object)
        return self._go(self._content)

    def _content(self, parts: list[Part]) -> bool:
        """Space before a call is no content; nor is it between calls and at the end after one."""
        marker = self._form.calls.marker if self._form.calls else None
        if self._after_call and not self._pending.strip():
            self._pending = "" if self._ended else self._pending
            return False
        if marker is None:
            return self._tell(parts, len(self._pending))
        at = self._pending.find(marker.opens)
        if at >= 0:
            end = len(self._pending[:at].rstrip())
            parts.append(Part("content", self._pending[:end]))
            self._raw, self._in_list = self._pending[end : at + len(marker.opens)], False
            self._pending = self._pending[at + len(marker.opens) :]
            return self._go(self._opened)
        if not self._ended:
            return self._tell(parts, len(self._pending[: _safe(self._pending, marker.opens)].rstrip()))
        return self._tell(parts, len(self._pending))

    def _tell(self, parts: list[Part], end: int) -> bool:
        parts.append(Part("content", self._pending[:end]))
        self._pending = self._pending[end:]
        self._after_call &= not parts[-1].text
        return False

    def _opened(self, parts: list[Part]) -> bool:
        """After a marker: an object, or an array of them."""
        text = self._take_space()
        if not text:
            return self._ended and self._give_up(parts)
        if text[0] == "[":
            self._raw, self._pending, self._in_list = self._raw + "[", text[1:], True
            return self._go(self._listed)
        return self._go(self._object) if text[0] == "{" else self._give_up(parts)

    def _listed(self, parts: list[Part]) -> bool:
        text = self._take_space()
        if not text:
            return self._ended and self._give_up(parts)
        return self._go(self._object) if text[0] == "{" else self._give_up(parts)

    def _object(self, parts: list[Part]) -> bool:
        """A call, up to the end of its object."""
        end = self._scan.take(self._pending)
        head = _HEAD.match(self._pending) if self._form.certain and self._told is None else None
        if head is not None and head["name"] in self._form.functions:
            self._told = head.end()
            parts.append(Part("call", head["name"]))
        if self._told is not None:
            self._tell_arguments(parts)
        if end is None:
            return (self._ended or self._scan.malformed) and self._give_up(parts)
        text, self._pending = self._pending[:end], self._pending[end:]
        if self._told is None:
            call = read_call(text, self._form.functions)
            if call is None:
                self._pending = text + self._pending
                return self._give_up(parts, end)
            parts += [Part("call", call[0]), Part("arguments", call[1])]
        self._reset()
        return self._go(self._closed)

    def _tell_arguments(self, parts: list[Part]) -> None:
        start, end = self._told or 0, self._scan.inner_end or self._scan.at
        if end > start:
            parts.append(Part("arguments", self._pending[start:end]))
            self._told = end

    def _closed(self, parts: list[Part]) -> bool:
        """After a call: what closes it, or another one. Without either, what comes is content."""
        text = self._pending.lstrip()
        self._after_call = True
        for ends, state in self._endings():
            if text.startswith(ends):
                self._raw = self._pending[: len(self._pending) - len(text)] + ends
                self._pending = text[len(ends) :]
                self._in_list &= ends != "]"
                return self._go(state)
            if not self._ended and ends.startswith(text):
                return False
        return self._go(self._content)

    def _endings(self) -> list[tuple[str, State]]:
        marker = self._form.calls.marker if self._form.calls else None
        if marker is None:  # Llama parts several by a semicolon
            return [(";", self._listed)]
        endings: list[tuple[str, State]] = [(",", self._listed), ("]", self._closed)] if self._in_list else []
        return [*endings, (marker.closes, self._content)] if marker.closes else endings

    def _take_space(self) -> str:
        """What is pending without the space before it, which belongs to what led here."""
        text = self._pending.lstrip()
        self._raw += self._pending[: len(self._pending) - len(text)]
        self._pending = text
        return text

    def _give_up(self, parts: list[Part], length: int = 0) -> bool:
        """What was read as a call is content. length: of what is pending, as far as it was read."""
        if self._told is not None:  # cut within its arguments, which are told as they are
            kind: Kind = "content" if self._scan.malformed or self._scan.inner_end else "arguments"
            parts.append(Part(kind, self._pending[self._told :]))
            self._pending, self.is_cut = "", True
        else:
            length = length or self._scan.at
            parts.append(Part("content", self._raw + self._pending[:length]))
            self._pending = self._pending[length:]
            self._after_call = False
        self._reset()
        return self._go(self._content)

    def _reset(self) -> None:
        self._raw, self._told, self._scan = "", None, ObjectScan()

    def _go(self, state: State) -> bool:
        self._state = state
        return True


def _safe(text: str, marker: str) -> int:
    """Characters of `text` before its longest end that may begin the marker."""
    lengths = range(min(len(marker) - 1, len(text)), 0, -1)
    return len(text) - next((n for n in lengths if text.endswith(marker[:n])), 0)


def _merged(parts: list[Part]) -> list[Part]:
    """Without empty pieces; neighbours of one kind as one."""
    merged: list[Part] = []
    for part in parts:
        if part.kind == "call":
            merged.append(part)
        elif part.text and merged and merged[-1].kind == part.kind:
            merged[-1] = Part(part.kind, merged[-1].text + part.text)
        elif part.text:
            merged.append(part)
    return merged
