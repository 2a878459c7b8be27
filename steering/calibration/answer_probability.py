"""Probability of the truth where an answer is decided, by the engine that serves: a fine scale to search on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steering.calibration.data import answer_position, first_token
from steering.contrast.item import Item
from steering.engine.engine import Engine
from steering.engine.request import MAX_TOP_LOGPROBS, Completion, Request, SamplingParams
from steering.errors import NumericalError
from steering.plan import Plan


def answer_probabilities(engine: Engine, asked: Sequence[tuple[Plan, Sequence[Item]]]) -> list[float]:
    """Mean P(first token of the truth) over some items under each of several plans, all of them in one batch; each
    answer is opened for the model.

    A probability below the MAX_TOP_LOGPROBS highest counts as 0, as it does where the answer ends at once or the plan
    breaks the numbers. Raises whatever else ended a request.
    """
    sampling = SamplingParams(1, temperature=0.0, logprobs=MAX_TOP_LOGPROBS)
    prompts = [(plan, tuple(ids)) for plan, items in asked for ids in answer_position(engine.model, items)]
    requests = [Request(str(i), prompt, sampling, plan) for i, (plan, prompt) in enumerate(prompts)]
    completions = iter(engine.generate(requests))
    return [
        sum(_probability(next(completions), first_token(engine.model, item.truth, item.form)) for item in items)
        / len(items)
        for _, items in asked
    ]


def _probability(completion: Completion, truth: int) -> float:
    error = completion.finish.error
    if error and not isinstance(error, NumericalError):
        raise error
    listed = dict(completion.tokens[0].top_logprobs) if completion.tokens else {}
    return math.exp(listed.get(truth, -math.inf))
