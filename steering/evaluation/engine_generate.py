"""Generate in process: the engine that serves, asked directly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.evaluation.core import Generate, Prompt, Reply
from steering.model.chat import encode_chat
from steering.plan import Plan


def engine_generate(engine: Engine, plan: Plan, *, max_tokens: int) -> Generate:
    """Greedy answers of `engine` under one plan."""

    def generate(prompts: Sequence[Prompt]) -> list[Reply]:
        return engine_replies(engine, [(plan, prompts)], max_tokens=max_tokens)[0]

    return generate


def engine_replies(
    engine: Engine, asked: Sequence[tuple[Plan, Sequence[Prompt]]], *, max_tokens: int
) -> list[list[Reply]]:
    """Greedy answers to some prompts under each of several plans, all of them in one batch."""
    sampling = SamplingParams(max_tokens, temperature=0.0)

    @cache
    def ids(prompt: tuple[tuple[tuple[str, str], ...], ...]) -> tuple[int, ...]:
        return tuple(encode_chat(engine.model, [dict(message) for message in prompt]))

    flat = [(plan, tuple(tuple(turn.items()) for turn in prompt)) for plan, prompts in asked for prompt in prompts]
    requests = [Request(str(i), ids(prompt), sampling, plan) for i, (plan, prompt) in enumerate(flat)]
    replies = map(_reply, engine.generate(requests))
    return [[next(replies) for _ in prompts] for _, prompts in asked]


def _reply(completion: Completion) -> Reply:
    if completion.finish.error:
        raise completion.finish.error
    receipt = completion.finish.receipt
    return Reply(completion.text, receipt.fired_tokens, receipt.max_drift)
