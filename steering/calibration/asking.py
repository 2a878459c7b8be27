"""Asking: everything calibration measures is an answer of the engine that serves, and none is asked for twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from steering.calibration.answer_probability import AnswerProbability
from steering.calibration.data import ANSWER_LIMIT
from steering.calibration.kept_results import KeptResults
from steering.contrast.item import Item
from steering.engine.engine import Engine
from steering.evaluation.core import Generate, Prompt, Reply
from steering.evaluation.engine_generate import engine_generate
from steering.evaluation.side_effects import Ids, SideEffects, side_effects
from steering.model.loading import LanguageModel
from steering.plan import Plan


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
        ask = engine_generate(self.engine, plan, max_tokens=ANSWER_LIMIT)

        def generate(prompts: Sequence[Prompt]) -> list[Reply]:
            def told() -> list[tuple[str, int, float | None]]:
                return [(reply.text, reply.fired_tokens, reply.max_drift) for reply in ask(prompts)]

            return [Reply(*one) for one in self._once(("answers", plan.digest, list(map(list, prompts))), told)]

        return generate

    def probability(self, plan: Plan, items: Sequence[Item]) -> float:
        """Mean probability of the truth where the answers are decided."""
        asked = [(item.messages, item.truth, item.form.name) for item in items]
        return float(
            self._once(("probability", plan.digest, asked), lambda: AnswerProbability(self.engine, items)(plan))
        )

    def side_effects(self, plan: Plan, prompts: Sequence[Ids], texts: Sequence[Ids]) -> SideEffects:
        told = self._once(
            ("side effects", plan.digest, prompts, texts),
            lambda: asdict(side_effects(self.engine, plan, prompts, texts, max_tokens=ANSWER_LIMIT)),
        )
        return SideEffects(**told)

    def _once(self, asked: object, answer: Callable[[], object]) -> Any:
        key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]
        found = self._kept.get(key)
        return self._kept.add(key, answer()) if found is None else found
