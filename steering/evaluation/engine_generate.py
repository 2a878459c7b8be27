"""Generate in process: the engine that serves, asked directly."""

from __future__ import annotations

from collections.abc import Sequence

from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.evaluation.core import Generate, Prompt, Reply
from steering.model.chat import encode_chat
from steering.plan import Plan


def engine_generate(engine: Engine, plan: Plan, *, max_tokens: int) -> Generate:
    """Greedy answers of `engine` under one plan."""
    sampling = SamplingParams(max_tokens, temperature=0.0)

    def generate(prompts: Sequence[Prompt]) -> list[Reply]:
        requests = [
            Request(str(i), tuple(encode_chat(engine.model, prompt)), sampling, plan)
            for i, prompt in enumerate(prompts)
        ]
        return [_reply(completion) for completion in engine.generate(requests)]

    return generate


def _reply(completion: Completion) -> Reply:
    if completion.finish.error:
        raise completion.finish.error
    receipt = completion.finish.receipt
    return Reply(completion.text, receipt.fired_tokens, receipt.max_drift)
