"""Tokens to text, as they come: whole characters only, and never a piece of a stop string."""

from __future__ import annotations

import codecs

from steering.model.vocabulary import Tokenizer, vocabulary_of


class Detokenizer:
    """Text of one answer. All it emits, put together, is decode(all tokens) cut at the first stop string.

    The first is the one that is complete first, and of those the longest: so it does not depend on how the
    text was split into tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: tuple[str, ...],
        *,
        at_start: bool = True,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        """at_start: no text stands before it; else a space it begins with is never the tokenizer's own.
        shown: control tokens that are part of the text."""
        self._vocabulary = vocabulary_of(tokenizer)
        self._silent = self._vocabulary.special_ids - shown
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = at_start and self._vocabulary.strips_first_space
        self._stop = stop
        self._held = ""
        """Decoded and not emitted: could be the beginning of a stop string."""
        self._stopped = False

    def push(self, token_id: int) -> tuple[str, bool]:
        """(text safe to emit now, whether a stop string was completed); after a stop nothing more comes."""
        if self._stopped or token_id in self._silent:
            return "", self._stopped
        return self._take(self._utf8.decode(self._vocabulary.bytes_of(token_id))), self._stopped

    def flush(self) -> str:
        """What was held back, at the end without a stop; bytes of an unfinished character become U+FFFD."""
        if self._stopped:
            return ""
        text = self._take(self._utf8.decode(b"", final=True))
        if not self._stopped:
            text, self._held = text + self._held, ""
        return text

    def _take(self, new: str) -> str:
        if self._at_start and new:
            new, self._at_start = new.removeprefix(" "), False
        text = self._held + new
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self._stopped, self._held = True, ""
            return text[: min(found)[1]]
        safe = len(text) - self._overlap(text)
        self._held = text[safe:]
        return text[:safe]

    def _overlap(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self._stop)), 0)
