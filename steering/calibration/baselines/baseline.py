"""Baseline: a plan, or a system prompt, that stands beside a correction in one table; and the small search for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from steering.calibration.asking import Asking
from steering.calibration.data import pressured_items
from steering.contrast.item import Item
from steering.contrast.source import Source
from steering.evaluation.backend import with_system
from steering.evaluation.core import Generate, Prompt, Reply
from steering.plan import Plan

NUM_SEARCHED = 200
"""Pressured items, at most, on which candidates are compared."""


@dataclass(frozen=True)
class Option:
    """One of the values tried."""

    name: str
    """What was chosen, for people."""
    plan: Plan = field(default_factory=Plan)
    system: str = ""
    """System message; empty for none."""

    def asked(self, item: Item) -> Item:
        """The item as this puts it to the model."""
        return replace(item, messages=with_system(item.messages, self.system))


@dataclass(frozen=True)
class Baseline:
    """What the search came to."""

    name: str
    chosen: Option
    evidence: Mapping[str, object]
    """JSON: how many items, P(truth) without anything, and that of every candidate."""

    @property
    def plan(self) -> Plan:
        return self.chosen.plan

    def through(self, answer: Generate) -> Generate:
        """Answers to prompts as this baseline puts them. answer: under its plan."""

        def generate(prompts: Sequence[Prompt]) -> list[Reply]:
            return answer([with_system(prompt, self.chosen.system) for prompt in prompts])

        return generate


def searched_items(source: Source, seed: int) -> list[Item]:
    """Pressured `fit` items in phrasings drawn anew, evenly over questions and kinds."""
    items = pressured_items(source, "fit", seed=seed + 1)
    count = min(len(items), NUM_SEARCHED)
    return [items[i * len(items) // count] for i in range(count)]


def best_of(name: str, asking: Asking, items: Sequence[Item], candidates: Sequence[Option]) -> Baseline:
    """The candidate under which the truth is most probable where answers are decided. Off is printed beside and never
    chosen, however badly all do."""

    every = [Option("off"), *candidates]
    asked = [(candidate.plan, [candidate.asked(item) for item in items]) for candidate in every]
    off, *found = asking.probabilities(asked)
    scores = {candidate.name: score for candidate, score in zip(candidates, found, strict=True)}
    best = max(candidates, key=lambda candidate: scores[candidate.name])
    evidence = {"n": len(items), "off": off, "tried": scores, "chosen": best.name}
    return Baseline(name, best, evidence)
