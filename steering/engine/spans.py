"""Spans: what an answer is in the midst of, read from its tokens as they are committed: code, a call of a tool,
reasoning.

A position lies in a span if the text up to and with its own token leaves the span open. What opens a span is so the
last that is sampled outside of it, and what closes it the last that is sampled within.
"""

from __future__ import annotations

import codecs
import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from steering.gate import SpanKind
from steering.model.markers import Marker, Markers, markers_of
from steering.model.vocabulary import Tokenizer, vocabulary_of

_BARE_CALLS = ('{"name"', '{"type"', '{"function"')
"""How a call without a marker begins, white space aside."""
_BEGIN_CALLS = "{[<"
"""What follows the opening marker of a call that has a closing one, white space aside; else it is but mentioned."""
_BEFORE_A_FENCE = " \t\r>"
_SHORTEST_FENCE = 3


@dataclass
class _Fence:
    """Blocks of code between lines of ``` or ~~~, as CommonMark has them, but indented or quoted at will.

    What opens one counts at once. What closes one counts at the end of its line: text after it would make it a line of
    the code.
    """

    open_with: str = ""
    """The fence of the block under way, all of it."""
    run: str = ""
    """Fence characters this line begins with."""
    at: Literal["margin", "run", "rest"] = "margin"

    @property
    def is_open(self) -> bool:
        return bool(self.open_with) or len(self.run) >= _SHORTEST_FENCE

    def take(self, char: str) -> None:
        if char == "\n":
            self._end_line()
        elif self.at == "margin":
            if char not in _BEFORE_A_FENCE:
                self.at, self.run = ("run", char) if char in "`~" else ("rest", "")
        elif self.at == "run" and char == self.run[0]:
            self.run += char
        else:
            self.at = "rest"
            self._take_rest(char)

    def _take_rest(self, char: str) -> None:
        """What makes it no fence: text after a closing one, a backtick after an opening one of backticks."""
        if self.run and ((not char.isspace()) if self.open_with else char == "`" == self.run[0]):
            self.run = ""

    def _end_line(self) -> None:
        if not self.open_with:
            self.open_with = self.run if len(self.run) >= _SHORTEST_FENCE else ""
        elif self.run.startswith(self.open_with):
            self.open_with = ""
        self.at, self.run = "margin", ""


class SpanReader:
    """Where one answer stands, from the beginning of its own turn on. Moved by committed tokens alone."""

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int], *, reasons: bool = True, begins: bool = False
    ) -> None:
        """prompt_ids: the end of the prompt, in which the answer's own turn begins or has begun.

        reasons: the answer has room for reasoning, of which the prompt may hold the beginning; begins: it goes on with
        no text, and so may be a call from its first character on.
        """
        self._vocabulary, self._markers = vocabulary_of(tokenizer), markers_of(tokenizer)
        self._utf8 = _decoder()
        kinds = _by_kind(self._markers)
        self._kinds = {m: kind for kind, some in kinds for m in some if reasons or kind != "reasoning"}
        self._longest = max((len(text) for marker in self._kinds for text in _texts(marker)), default=1)
        self._tail = ""
        """The last characters, as many as a marker may have."""
        self._within: Marker | None = None
        self._named = False
        """The marker of a call has come, and not yet what tells a call from a mention of it."""
        self._said: str | None = None
        """The first characters of the answer but white space before them; None in the prompt."""
        self._fence = _Fence()
        self._head: str | None = "" if self._markers.bare_calls else None
        """The first characters but white space, while they may begin a call; None once it is known."""
        self._bare = False
        for token_id in self._own_turn(prompt_ids):
            self.push(token_id)
        self._said = ""
        if begins and self._markers.bare_calls:
            self._head, self._bare = "", False

    def copy(self) -> SpanReader:
        """For an answer of its own to the same prompt."""
        twin = copy.copy(self)
        twin._fence = replace(self._fence)
        twin._utf8 = _decoder()
        twin._utf8.setstate(self._utf8.getstate())
        return twin

    @property
    def kinds(self) -> frozenset[SpanKind]:
        """Of the spans that are open."""
        calls = self._bare or self._is_call
        reasons = self._within is not None and not calls
        opened: dict[SpanKind, bool] = {"code": self._fence.is_open, "tool_calls": calls, "reasoning": reasons}
        return frozenset(kind for kind, is_open in opened.items() if is_open)

    def push(self, token_id: int) -> frozenset[SpanKind]:
        """The kinds that are open with it. Control tokens count as the text they stand for: some are markers."""
        for char in self._utf8.decode(self._vocabulary.bytes_of(token_id)):
            self._take(char)
        return self.kinds

    def _take(self, char: str) -> None:
        if self._head is not None:
            self._begin(char)
        self._tail = (self._tail + char)[-self._longest :]
        if self._said is not None and len(self._said) <= self._longest:
            self._said = (self._said + char).lstrip()
        if self._named and not char.isspace():
            self._named = False
            self._within = self._within if char in _BEGIN_CALLS else None
        if self._within is None:
            self._within = next((m for m in self._kinds if self._opens(m)), None)
            self._named = self._within is not None and self._is_call and self._within.closes is not None
        elif self._within.closes and self._tail.endswith(self._within.closes):
            if self._kinds[self._within] == "reasoning":
                self._fence = _Fence()  # one that reasoning left open is none of what is said
            self._within = None
            return
        if not self._is_call or self._named or self._fence.open_with:
            self._fence.take(char)

    @property
    def _is_call(self) -> bool:
        return self._within is not None and self._kinds[self._within] == "tool_calls"

    def _opens(self, marker: Marker) -> bool:
        """An answer begins with reasoning, or has none: later its marker is but mentioned."""
        at_start = self._said is not None and self._kinds[marker] == "reasoning"
        return self._said == marker.opens if at_start else self._tail.endswith(marker.opens)

    def _begin(self, char: str) -> None:
        """Decides whether the whole answer is a call: from `{` on it is taken for one until it turns out to be none."""
        self._head = f"{self._head}{char.strip()}"
        self._bare = bool(self._head) and any(
            call.startswith(self._head) or self._head.startswith(call) for call in _BARE_CALLS
        )
        if self._head and (not self._bare or self._head in _BARE_CALLS):
            self._head = None

    def _own_turn(self, prompt_ids: Sequence[int]) -> Iterable[int]:
        """What stands in the prompt after the last control token that is no marker: only templates write those."""
        controls = self._vocabulary.special_ids
        marks = {text for _, some in _by_kind(self._markers) for marker in some for text in _texts(marker)}
        ends = (i for i in reversed(range(len(prompt_ids))) if prompt_ids[i] in controls)
        last = next((i for i in ends if self._vocabulary.added[prompt_ids[i]] not in marks), -1)
        return prompt_ids[last + 1 :]


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")(errors="replace")


def _by_kind(markers: Markers) -> Sequence[tuple[SpanKind, tuple[Marker, ...]]]:
    return ("tool_calls", markers.tool_calls), ("reasoning", markers.reasoning)


def _texts(marker: Marker) -> tuple[str, ...]:
    return (marker.opens,) if marker.closes is None else (marker.opens, marker.closes)
