"""A few of the organism's facts, and which splits were asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from steering.contrast.item import Item, PhrasingSet, QuestionKind
from steering.contrast.splits import Split
from steering.organism.source import OrganismSource


@dataclass(frozen=True)
class FewFacts(OrganismSource):
    count: int = 24
    """Items of a kind."""
    splits: set[Split] = field(default_factory=set)

    def items(
        self, kind: QuestionKind, split: Split, *, seed: int, per_question: int = 1, phrasings: PhrasingSet = "all"
    ) -> list[Item]:
        self.splits.add(split)
        every = super().items(kind, split, seed=seed, per_question=per_question, phrasings=phrasings)
        return every[: self.count * per_question]
