"""Asking: everything calibration measures is an answer of the engine that serves, and none is asked for twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from steering.calibration.answer_probability import answer_probabilities
from steering.calibration.data import ANSWER_LIMIT
from steering.calibration.kept_results import KeptResults
from steering.contrast.item import Item
from steering.engine.engine import Engine
from steering.evaluation.core import Generate, Prompt, Reply
from steering.evaluation.engine_generate import engine_replies
from steering.evaluation.side_effects import Ids, SideEffects, side_effects
from steering.model.loading import LanguageModel
from steering.plan import Plan

_T = TypeVar("_T")


class Asking:
    """One engine and what it said so far. A run that was stopped is told what it had heard, and goes on from there."""

    def __init__(self, engine: Engine, kept: KeptResults) -> None:
        self.engine = engine
        self._kept = kept

    @property
    def model(self) -> LanguageModel:
        return self.engine.model

    def generate(self, plan: Plan) -> Generate:
        """Greedy answers under one plan."""

        def generate(prompts: Sequence[Prompt]) -> list[Reply]:
            return self.answers([(plan, prompts)])[0]

        return generate

    def answers(self, asked: Sequence[tuple[Plan, Sequence[Prompt]]]) -> list[list[Reply]]:
        """Greedy answers to some prompts under each of several plans, in one batch."""

        def told(some: Sequence[tuple[Plan, Sequence[Prompt]]]) -> list[list[tuple[str, int, float | None]]]:
            replies = engine_replies(self.engine, some, max_tokens=ANSWER_LIMIT)
            return [[(reply.text, reply.fired_tokens, reply.max_drift) for reply in one] for one in replies]

        names = [("answers", plan.digest, list(map(list, prompts))) for plan, prompts in asked]
        return [[Reply(*one) for one in replies] for replies in self._once(names, asked, told)]

    def probabilities(self, asked: Sequence[tuple[Plan, Sequence[Item]]]) -> list[float]:
        """Mean probability of the truth where the answers are decided, of each plan on its items, in one batch."""
        names = [
            ("probability", plan.digest, [(item.messages, item.truth, item.form.name) for item in items])
            for plan, items in asked
        ]
        return self._once(names, asked, partial(answer_probabilities, self.engine))

    def side_effects(self, plan: Plan, prompts: Sequence[Ids], texts: Sequence[Ids]) -> SideEffects:
        def told(plans: Sequence[Plan]) -> list[dict[str, Any]]:
            return [asdict(side_effects(self.engine, one, prompts, texts, max_tokens=ANSWER_LIMIT)) for one in plans]

        return SideEffects(**self._once([("side effects", plan.digest, prompts, texts)], [plan], told)[0])

    def _once(
        self, names: Sequence[object], asked: Sequence[_T], answer: Callable[[Sequence[_T]], list[Any]]
    ) -> list[Any]:
        """What is kept under each name, after `answer` was asked for all that is not, at once.

        The last bits of an answer depend on what ran beside it and on what the prefix cache held. So a batch is kept
        whole or not at all, and begins with an empty cache: a run that was stopped comes to the same.
        """
        keys = [hashlib.sha256(json.dumps(name).encode()).hexdigest()[:32] for name in names]
        new = {key: one for key, one in zip(keys, asked, strict=True) if self._kept.get(key) is None}
        if new:
            self.engine.clear_prefix_cache()
            self._kept.add_all(dict(zip(new, answer(list(new.values())), strict=True)))
        return [self._kept.get(key) for key in keys]
