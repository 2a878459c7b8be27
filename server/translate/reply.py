"""Token events of the engine -> replies of the wire."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from server.schemas.replies import (
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    FinishReason,
    Logprobs,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from server.schemas.steering import Receipt, TokenTrace
from server.translate.chat import Call, short_profile
from steering.engine.request import Finish, Reading, Token, TokenEvent
from steering.errors import EngineFailure
from steering.model.chat import token_bytes, token_text
from steering.model.loading import LanguageModel

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON has no number for."""


class Reply:
    """Writes the reply to one call, whole or in chunks: the same words, numbers and receipt either way."""

    def __init__(self, call: Call, model: LanguageModel) -> None:
        self.call, self.model = call, model
        self.wants_logprobs = call.request.sampling.logprobs is not None

    def completion(self, events: Sequence[TokenEvent]) -> ChatCompletion:
        """The whole answer; the last event has `finish`."""
        finish = _finish(events[-1])
        tokens = [event.token for event in events if event.token is not None]
        choice: Choice = {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "".join(event.text for event in events),
                "refusal": None,
            },
            "logprobs": self._logprobs(tokens) if self.wants_logprobs else None,
            "finish_reason": _reason(finish),
        }
        if receipt := self._receipt(finish):
            choice["steering"] = receipt
        return {
            "id": self.call.request.id,
            "object": "chat.completion",
            "created": self.call.created,
            "model": self.call.model,
            "system_fingerprint": self.call.system_fingerprint,
            "choices": [choice],
            "usage": _usage(finish),
        }

    def opening(self) -> ChatCompletionChunk:
        return self._chunk(
            {
                "index": 0,
                "delta": {"role": "assistant", "content": ""},
                "logprobs": None,
                "finish_reason": None,
            }
        )

    def chunks(self, event: TokenEvent) -> Iterator[ChatCompletionChunk]:
        """None for a token whose text is still held back, unless its log-probability is wanted."""
        tokens = [event.token] if event.token is not None and self.wants_logprobs else []
        if event.text or tokens:
            logprobs = self._logprobs(tokens) if tokens else None
            yield self._chunk(
                {"index": 0, "delta": {"content": event.text}, "logprobs": logprobs, "finish_reason": None}
            )
        if event.finish is not None:
            last: ChunkChoice = {
                "index": 0,
                "delta": {},
                "logprobs": None,
                "finish_reason": _reason(event.finish),
            }
            if receipt := self._receipt(event.finish):
                last["steering"] = receipt
            yield self._chunk(last)

    def usage_chunk(self, event: TokenEvent) -> ChatCompletionChunk:
        return {**self._chunk(None), "usage": _usage(_finish(event))}

    def _chunk(self, choice: ChunkChoice | None) -> ChatCompletionChunk:
        chunk: ChatCompletionChunk = {
            "id": self.call.request.id,
            "object": "chat.completion.chunk",
            "created": self.call.created,
            "model": self.call.model,
            "system_fingerprint": self.call.system_fingerprint,
            "choices": [] if choice is None else [choice],
        }
        if self.call.include_usage:
            chunk["usage"] = None
        return chunk

    def _logprobs(self, tokens: Sequence[Token]) -> Logprobs:
        return {"content": [self._token_logprob(token) for token in tokens], "refusal": None}

    def _token_logprob(self, token: Token) -> TokenLogprob:
        drawn = self._top_logprob(token.id, _finite(token.logprob))
        entry: TokenLogprob = {
            "token": drawn["token"],
            "logprob": drawn["logprob"],
            "bytes": drawn["bytes"],
            "top_logprobs": [self._top_logprob(token_id, _finite(value)) for token_id, value in token.top_logprobs],
        }
        if token.reading is not None and self.call.request.plan.trace == "tokens":
            entry["steering"] = self._trace(token.reading)
        return entry

    def _top_logprob(self, token_id: int, logprob: float) -> TopLogprob:
        raw = token_bytes(self.model, token_id)
        return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}

    def _trace(self, reading: Reading) -> TokenTrace:
        def pairs(candidates: Sequence[tuple[int, float]]) -> list[tuple[str, float]]:
            return [(token_text(self.model, token_id), _finite(value)) for token_id, value in candidates]

        trace: TokenTrace = {"fired": reading.fired, "drift": reading.drift, "early": pairs(reading.early)}
        trace["late"] = "steered" if reading.late_steered else pairs(reading.late)
        if reading.base_logprob is not None:
            trace["base_logprob"] = _finite(reading.base_logprob)
        return trace

    def _receipt(self, finish: Finish) -> Receipt | None:
        """None for a request that was not steered and not observed."""
        plan, done = self.call.request.plan, finish.receipt
        if plan.mode == "off":
            return None
        receipt: Receipt = {
            "applied": done.applied,
            "mode": plan.mode,
            "profile": short_profile(plan.profile),
            "strength": plan.strength,
            "fired_tokens": done.fired_tokens,
            "tokens": done.tokens,
        }
        gates = {correction.gate.kind for correction in plan.all_corrections}
        if gates:
            receipt["gate"] = "drift" if "drift" in gates else "always"
        if done.at is not None:
            receipt["at"] = done.at
        if done.max_drift is not None:
            receipt["max_drift"] = done.max_drift
        if done.early_token is not None and done.late_token is not None:
            receipt["early_token"] = token_text(self.model, done.early_token)
            receipt["late_token"] = token_text(self.model, done.late_token)
        if not done.applied:
            receipt["skipped"] = self._why_skipped(finish)
        return receipt

    def _why_skipped(self, finish: Finish) -> str:
        plan = self.call.request.plan
        if plan.mode == "observe":
            return "observe"
        if plan.strength == 0.0:
            return "strength 0"
        if any(correction.gate.kind == "drift" for correction in plan.all_corrections):
            return "gate did not open"
        return "no position in its phases"


def _finish(event: TokenEvent) -> Finish:
    if event.finish is None:
        raise EngineFailure("an answer ended without its terminal event")
    return event.finish


def _reason(finish: Finish) -> FinishReason:
    if finish.reason == "stop" or finish.reason == "length":
        return finish.reason
    raise finish.error or EngineFailure(f"an answer ended by {finish.reason}")


def _usage(finish: Finish) -> Usage:
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
        "completion_tokens_details": {"steered_tokens": finish.receipt.steered_tokens},
    }


def _finite(logprob: float | None) -> float:
    return logprob if logprob is not None and math.isfinite(logprob) else LOWEST_LOGPROB
