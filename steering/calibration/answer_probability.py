"""Probability of the truth where an answer is decided, by the engine that serves: a fine scale to search on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steering.calibration.data import answer_position, first_token
from steering.contrast.item import Item
from steering.engine.engine import Engine
from steering.engine.request import MAX_TOP_LOGPROBS, Request, SamplingParams
from steering.errors import NumericalError
from steering.plan import Plan


class AnswerProbability:
    """Mean P(first token of the truth) over some items, each answer opened for the model."""

    def __init__(self, engine: Engine, items: Sequence[Item]) -> None:
        self._engine = engine
        self._prompts = [tuple(ids) for ids in answer_position(engine.model, items)]
        self._truths = [first_token(engine.model, item.truth, item.form) for item in items]

    def __call__(self, plan: Plan) -> float:
        """A probability below the MAX_TOP_LOGPROBS highest counts as 0, as it does where the answer ends at once or the
        plan breaks the numbers. Raises whatever else ended a request."""
        sampling = SamplingParams(1, temperature=0.0, logprobs=MAX_TOP_LOGPROBS)
        requests = [Request(str(i), prompt, sampling, plan) for i, prompt in enumerate(self._prompts)]
        total = 0.0
        for completion, truth in zip(self._engine.generate(requests), self._truths, strict=True):
            error = completion.finish.error
            if error and not isinstance(error, NumericalError):
                raise error
            listed = dict(completion.tokens[0].top_logprobs) if completion.tokens else {}
            total += math.exp(listed.get(truth, -math.inf))
        return total / len(requests)
