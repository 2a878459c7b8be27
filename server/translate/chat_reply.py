"""The reply to a chat request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from server.schemas.replies import (
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    Delta,
    Logprobs,
    TokenLogprob,
    TopLogprob,
)
from server.translate.call import Call
from server.translate.receipt import finite, reason, receipt, trace, usage
from server.translate.reply import Answer, gather
from steering.engine.request import Finish, Token, TokenEvent
from steering.model.chat import token_bytes
from steering.model.loading import LanguageModel


class ChatReply:
    """Messages, or deltas of them."""

    def __init__(self, call: Call, model: LanguageModel) -> None:
        self.call, self.model = call, model
        self._wants_logprobs = call.requests[0].sampling.logprobs is not None
        self._opened: set[int] = set()
        self._finishes: list[Finish] = []

    def whole(self, events: Sequence[TokenEvent]) -> ChatCompletion:
        answers = gather(self.call, events)
        reply: ChatCompletion = {
            "id": self.call.id,
            "object": "chat.completion",
            "created": self.call.created,
            "model": self.call.model,
            "system_fingerprint": self.call.system_fingerprint,
            "choices": [self.choice(i, answer) for i, answer in enumerate(answers)],
            "usage": usage(self.call, (answer.finish for answer in answers)),
        }
        if self.call.service_tier is not None:
            reply["service_tier"] = self.call.service_tier
        return reply

    def choice(self, index: int, answer: Answer) -> Choice:
        choice: Choice = {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self._logprobs(index, answer.tokens) if self._wants_logprobs else None,
            "finish_reason": reason(answer.finish),
        }
        if steering := receipt(self.call, index, answer.finish, self.model):
            choice["steering"] = steering
        return choice

    def chunks(self, event: TokenEvent) -> Iterator[ChatCompletionChunk]:
        index = self.call.index(event)
        if index not in self._opened:
            self._opened.add(index)
            yield self._chunk(_delta(index, {"role": "assistant", "content": ""}))
        tokens = [event.token] if event.token is not None and self._wants_logprobs else []
        if event.text or tokens:
            choice = _delta(index, {"content": event.text})
            choice["logprobs"] = self._logprobs(index, tokens) if tokens else None
            yield self._chunk(choice)
        if event.finish is not None:
            self._finishes.append(event.finish)
            last = _delta(index, {})
            last["finish_reason"] = reason(event.finish)
            if steering := receipt(self.call, index, event.finish, self.model):
                last["steering"] = steering
            yield self._chunk(last)

    def usage_chunk(self) -> ChatCompletionChunk:
        return {**self._chunk(None), "usage": usage(self.call, self._finishes)}

    def _chunk(self, choice: ChunkChoice | None) -> ChatCompletionChunk:
        chunk: ChatCompletionChunk = {
            "id": self.call.id,
            "object": "chat.completion.chunk",
            "created": self.call.created,
            "model": self.call.model,
            "system_fingerprint": self.call.system_fingerprint,
            "choices": [] if choice is None else [choice],
        }
        if self.call.service_tier is not None:
            chunk["service_tier"] = self.call.service_tier
        if self.call.include_usage:
            chunk["usage"] = None
        return chunk

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> Logprobs:
        return {"content": [self._token_logprob(index, token) for token in tokens], "refusal": None}

    def _token_logprob(self, index: int, token: Token) -> TokenLogprob:
        drawn = self._top_logprob(token.id, token.logprob)
        entry: TokenLogprob = {
            "token": drawn["token"],
            "logprob": drawn["logprob"],
            "bytes": drawn["bytes"],
            "top_logprobs": [self._top_logprob(token_id, value) for token_id, value in token.top_logprobs],
        }
        if traced := trace(token, self.call.choices[index].request.plan, self.model):
            entry["steering"] = traced
        return entry

    def _top_logprob(self, token_id: int, logprob: float | None) -> TopLogprob:
        raw = token_bytes(self.model, token_id)
        return {"token": raw.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(raw)}


def _delta(index: int, delta: Delta) -> ChunkChoice:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
