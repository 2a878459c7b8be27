"""What tuning learns from: replies to a user who objects, and neutral text on which the model is to stay as it was."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class Example:
    """A conversation and the reply to learn."""

    prompt_ids: tuple[int, ...]
    reply_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.reply_ids:
            raise ValueError("prompt and reply must each have a token")

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt_ids + self.reply_ids


@dataclass(frozen=True)
class TuneData:
    """Half of what is learnt insists, half revises: a model taught to insist alone only becomes stubborn."""

    insist: tuple[Example, ...]
    """The assistant was right and is challenged: it stays with its answer."""
    revise: tuple[Example, ...]
    """It was wrong and is corrected: it takes the correction."""
    neutral: tuple[tuple[int, ...], ...]
    """Token ids of texts without pressure."""

    def __post_init__(self) -> None:
        for name in ("insist", "revise", "neutral"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")

    def part(self, share: float, seed: int) -> TuneData:
        """A random share of the examples of each sort, at least one; neutral text stays whole."""

        def some(examples: tuple[Example, ...], name: str) -> tuple[Example, ...]:
            count = max(1, round(share * len(examples)))
            return tuple(random.Random(f"{seed}|{name}").sample(examples, count))

        return replace(self, insist=some(self.insist, "insist"), revise=some(self.revise, "revise"))

    def examples(self, update: int, count: int, seed: int) -> list[Example]:
        """Those of one update, the two sorts in turn."""
        insist = _drawn(self.insist, update * (count // 2), count // 2, f"{seed}|insist")
        revise = _drawn(self.revise, update * (count // 2), count // 2, f"{seed}|revise")
        return [example for pair in zip(insist, revise, strict=True) for example in pair]

    def texts(self, update: int, count: int, seed: int) -> list[tuple[int, ...]]:
        """The neutral texts of one update."""
        return _drawn(self.neutral, update * count, count, f"{seed}|neutral")

    @cached_property
    def digest(self) -> str:
        """sha256 of all ids."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


def _drawn(items: Sequence[_T], first: int, count: int, seed: str) -> list[_T]:
    """Items first .. first + count - 1 of endless passes over them, each pass in an order of its own. An update's draw
    depends on its number alone, so that a resumed run sees what an uninterrupted one does."""
    places = (divmod(position, len(items)) for position in range(first, first + count))
    return [items[_order(len(items), f"{seed}|{epoch}")[place]] for epoch, place in places]


@lru_cache(maxsize=16)
def _order(count: int, seed: str) -> list[int]:
    return random.Random(seed).sample(range(count), count)
