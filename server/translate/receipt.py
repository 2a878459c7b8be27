"""What a reply tells about steering and about its size: receipts, traces, usage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from server.schemas.replies import FinishReason, Usage
from server.schemas.steering import Receipt, TokenTrace
from server.translate.call import Call, Choice, short_profile
from steering.engine.request import Finish, Reading, Token
from steering.engine.request import Receipt as Done
from steering.errors import EngineFailure
from steering.model.chat import token_text
from steering.model.loading import LanguageModel
from steering.plan import Plan

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON has no number for."""


def finite(logprob: float | None) -> float:
    return logprob if logprob is not None and math.isfinite(logprob) else LOWEST_LOGPROB


def reason(finish: Finish) -> FinishReason:
    """Raises what ended an answer that is not one."""
    if finish.reason == "stop" or finish.reason == "length":
        return finish.reason
    raise finish.error or EngineFailure(f"an answer ended by {finish.reason}.")


def usage(call: Call, finishes: Iterable[Finish]) -> Usage:
    """A prompt counts once, however many answers there are to it."""
    ends = list(finishes)
    prompt, completion = sum(len(r.prompt_ids) for r in call.requests), sum(end.completion_tokens for end in ends)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"steered_tokens": sum(end.receipt.steered_tokens for end in ends)},
    }


def receipt(call: Call, index: int, finish: Finish, model: LanguageModel) -> Receipt | None:
    """Of one choice; None for a request that was not steered, not observed and not compared."""
    choice = call.choices[index]
    asked, plan, done = choice.asked, choice.request.plan, finish.receipt
    if asked.plan.mode == "off":
        return None
    result: Receipt = {
        "applied": done.applied,
        "mode": plan.mode,
        "profile": short_profile(asked.plan.profile),
        "strength": asked.plan.strength,
        "fired_tokens": done.fired_tokens,
        "tokens": done.tokens,
    }
    gates = {correction.gate.kind for correction in plan.all_corrections}
    if gates:
        result["gate"] = "always" if "always" in gates else "drift"
    _add_reading(result, done, model)
    if plan.exempt:
        result["exempt"], result["exempt_tokens"] = sorted(plan.exempt), done.exempt_tokens
    if call.clamped is not None:
        result["clamped"] = f"strength {call.clamped:g} to {asked.plan.strength:g}, by the policy of the API key"
    if not done.applied:
        result["skipped"] = why_skipped(choice, done)
    if index in call.truncated:
        result["truncated"] = True
    if asked.compare:
        result["prefill_shared"] = asked.shares_prompt
    return result


def _add_reading(result: Receipt, done: Done, model: LanguageModel) -> None:
    """What the lens saw where it counts most, if there was one."""
    if done.at is not None:
        result["at"] = done.at
    if done.max_drift is not None:
        result["max_drift"] = done.max_drift
    if done.early_token is not None and done.late_token is not None:
        result["early_token"] = token_text(model, done.early_token)
        result["late_token"] = token_text(model, done.late_token)


def why_skipped(choice: Choice, done: Done) -> str:
    """Of an answer that no correction acted on; one of few."""
    plan = choice.request.plan
    if choice.asked.compare and choice.request.index == 1:
        return "plain answer to compare with"
    if plan.mode != "on":
        return "observe"
    if plan.strength == 0.0:
        return "strength 0"
    if done.exempt_tokens and done.exempt_tokens == done.tokens:
        return "all of it exempt"
    if any(correction.gate.kind == "drift" for correction in plan.all_corrections):
        return "gate did not open"
    return "no position in its phases"


def trace(token: Token, plan: Plan, model: LanguageModel) -> TokenTrace | None:
    """What the lens saw where the token was sampled, if the request traces tokens and there was a lens; of an exempt
    one, that it is."""
    if plan.trace != "tokens":
        return None
    if token.exempt:
        return {"fired": False, "steered": False, "exempt": True}
    return None if token.reading is None else _trace(token.reading, token.steered, model)


def _trace(reading: Reading, steered: bool, model: LanguageModel) -> TokenTrace:
    def pairs(candidates: Sequence[tuple[int, float]]) -> list[tuple[str, float]]:
        return [(token_text(model, token_id), finite(value)) for token_id, value in candidates]

    result: TokenTrace = {
        "fired": reading.fired,
        "steered": steered,
        "drift": reading.drift,
        "early": pairs(reading.early),
    }
    result["late"] = "steered" if reading.late_steered else pairs(reading.late)
    if reading.base_logprob is not None:
        result["base_logprob"] = finite(reading.base_logprob)
    return result
