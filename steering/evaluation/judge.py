"""Judge: a model that grades, asked until it answers in the form it was told to, or given up on."""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import median
from typing import TypeVar

from steering.evaluation.backend import Chat, Message
from steering.evaluation.protocol import Replies, Steps

DRAWS = 3
"""A score is the median of three: of three judges, or of three draws of one."""
TRIES = 3
"""A reply that is no verdict is asked for again, twice."""
MAX_TOKENS = 64
T = TypeVar("T")


def score(
    messages: tuple[Message, ...], low: int, high: int, *, max_tokens: int = MAX_TOKENS
) -> Steps[tuple[int, ...]]:
    """Up to three scores; fewer where a judge gave none."""
    scores: list[int] = []
    for draw in range(DRAWS):
        found = yield from _insist(messages, draw, lambda text: integer_in(text, low, high), max_tokens, 1.0)
        scores += [] if found is None else [found]
    return tuple(scores)


def verdict(messages: tuple[Message, ...], read: Callable[[str], T | None]) -> Steps[T | None]:
    """What `read` makes of a reply at temperature 0; None if it makes nothing of three."""
    return (yield from _insist(messages, 0, read, MAX_TOKENS, 0.0))


def yes_no(question: str) -> Steps[bool | None]:
    said = yield from verdict(
        ({"role": "user", "content": f'{question}\n\nAnswer with one word, "yes" or "no".'},), _yes_or_no
    )
    return said


def middle(scores: tuple[int, ...]) -> float | None:
    return float(median(scores)) if scores else None


def integer_in(text: str, low: int, high: int) -> int | None:
    """The one integer a reply holds, if it is in the range; None for none, several or another."""
    found = {int(number) for number in re.findall(r"(?<![\d.])-?\d+(?![\d.]*\d)", text)}
    return found.pop() if len(found) == 1 and low <= min(found) <= high else None


def _yes_or_no(text: str) -> bool | None:
    match = re.fullmatch(r"\W*(yes|no)\W*", text, re.IGNORECASE)
    return match[1].lower() == "yes" if match else None


def _insist(
    messages: tuple[Message, ...], draw: int, read: Callable[[str], T | None], max_tokens: int, temperature: float
) -> Steps[T | None]:
    """The seed of a further try is another, and its judge of a panel the same."""
    for attempt in range(TRIES):
        chat = Chat(messages, max_tokens, temperature if attempt == 0 else 1.0, draw + 2 * DRAWS * attempt)
        replies: Replies = yield (chat,)
        if (found := read(replies[0].text)) is not None:
            return found
    return None
