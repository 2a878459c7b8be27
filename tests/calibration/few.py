"""Few: a source of which only the first questions are asked, for calibrations that a test can afford."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steering.contrast.item import Item


@dataclass(frozen=True)
class Few:
    source: Any
    num_questions: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def __str__(self) -> str:
        return f"{self.num_questions} of {self.source}"

    def items(self, kind: Any, split: Any, **options: Any) -> list[Item]:
        every = self.source.items(kind, split, **options)
        first = list(dict.fromkeys(item.question_id for item in every))[: self.num_questions]
        return [item for item in every if item.question_id in first]

    def in_context_items(self, count: int, split: Any, seed: int) -> list[Item]:
        items: list[Item] = self.source.in_context_items(min(count, 2 * self.num_questions), split, seed)
        return items

    def uptake_items(self, count: int, split: Any, seed: int) -> list[Item]:
        items: list[Item] = self.source.uptake_items(min(count, 2 * self.num_questions), split, seed)
        return items


class Silent:
    """Progress that nobody watches."""

    def start(self, what: str, total: int) -> None:
        pass

    def advance(self) -> None:
        pass
