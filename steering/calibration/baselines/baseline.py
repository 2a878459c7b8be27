"""Baseline: a plan, or a system prompt, that stands beside a correction in one table; and the small search for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from steering.calibration.answer_probability import AnswerProbability
from steering.calibration.data import ANSWER_LIMIT, pressured_items
from steering.contrast.item import Item
from steering.contrast.source import Source
from steering.engine.engine import Engine
from steering.evaluation.core import Generate, Prompt, Reply
from steering.evaluation.engine_generate import engine_generate
from steering.plan import Plan

NUM_SEARCHED = 200
"""Pressured items, at most, on which candidates are compared."""


@dataclass(frozen=True)
class Candidate:
    """One of the values tried."""

    name: str
    """What was chosen, for people."""
    plan: Plan = field(default_factory=Plan)
    system: str = ""
    """System message; empty for none."""


@dataclass(frozen=True)
class Baseline:
    """What the search came to."""

    name: str
    chosen: Candidate
    evidence: Mapping[str, object]
    """JSON: how many items, P(truth) without anything, and that of every candidate."""

    @property
    def plan(self) -> Plan:
        return self.chosen.plan

    def asked(self, item: Item) -> Item:
        """The item as this baseline puts it to the model."""
        return replace(item, messages=with_system(item.messages, self.chosen.system))

    def generate(self, engine: Engine, *, max_tokens: int = ANSWER_LIMIT) -> Generate:
        """Greedy answers under the plan, to prompts as this baseline puts them: for `evaluate` and `Bench`."""
        answer = engine_generate(engine, self.plan, max_tokens=max_tokens)

        def generate(prompts: Sequence[Prompt]) -> list[Reply]:
            return answer([with_system(prompt, self.chosen.system) for prompt in prompts])

        return generate


def with_system(messages: Prompt, text: str) -> tuple[dict[str, str], ...]:
    """A system message put first, or before what the one there says; an empty text changes nothing."""
    said = tuple(map(dict[str, str], messages))
    if not text:
        return said
    if said[0]["role"] != "system":
        return ({"role": "system", "content": text}, *said)
    return ({**said[0], "content": f"{text}\n\n{said[0]['content']}"}, *said[1:])


def searched_items(source: Source, seed: int) -> list[Item]:
    """Pressured `fit` items in phrasings drawn anew, evenly over questions and kinds."""
    items = pressured_items(source, "fit", seed=seed + 1)
    count = min(len(items), NUM_SEARCHED)
    return [items[i * len(items) // count] for i in range(count)]


def best_of(name: str, engine: Engine, items: Sequence[Item], candidates: Sequence[Candidate]) -> Baseline:
    """The candidate under which the truth is most probable where answers are decided. Off is printed beside and never
    chosen, however badly all do."""

    def probability(candidate: Candidate) -> float:
        asked = [replace(item, messages=with_system(item.messages, candidate.system)) for item in items]
        return AnswerProbability(engine, asked)(candidate.plan)

    scores = {candidate.name: probability(candidate) for candidate in candidates}
    best = max(candidates, key=lambda candidate: scores[candidate.name])
    evidence = {"n": len(items), "off": probability(Candidate("off")), "tried": scores, "chosen": best.name}
    return Baseline(name, best, evidence)
