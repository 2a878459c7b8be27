"""The reply to a chat request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.errors import ErrorReply
from server.schemas.replies import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatFinishReason,
    Choice,
    ChunkChoice,
    Delta,
    DeltaToolCall,
    Logprobs,
    ReplyFunction,
    ReplyMessage,
    ReplyToolCall,
)
from server.translate.call import Call
from server.translate.logprobs import token_logprob
from server.translate.receipt import reason, receipt, usage
from server.translate.reply import Answer, gather
from server.translate.tools import new_call_id
from steering.engine.request import Finish, Token, TokenEvent
from steering.model.answer_parser import AnswerParser, Kind, Part
from steering.model.loading import LanguageModel


class ChatReply:
    """Messages, or deltas of them."""

    def __init__(self, call: Call, model: LanguageModel) -> None:
        self.call, self.model = call, model
        self._wants_logprobs = call.requests[0].sampling.logprobs is not None
        self._streams: dict[int, _Stream] = {}
        """By choice: those that have begun."""
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
        parser = AnswerParser(self.call.form)
        message = self._message([*parser.push(answer.text), *parser.flush()])
        choice: Choice = {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(index, answer.tokens) if self._wants_logprobs else None,
            "finish_reason": _finish_reason(answer.finish, parser, has_calls="tool_calls" in message),
        }
        if steering := receipt(self.call, index, answer.finish, self.model):
            choice["steering"] = steering
        return choice

    def _message(self, parts: Sequence[Part]) -> ReplyMessage:
        calls: list[ReplyToolCall] = []
        for part in parts:
            if part.kind == "call":
                called: ReplyFunction = {"name": part.text, "arguments": ""}
                calls.append({"id": self._new_id(), "type": "function", "function": called})
            elif part.kind == "arguments":
                calls[-1]["function"]["arguments"] += part.text
        content, thought = _text(parts, "content"), _text(parts, "reasoning")
        message: ReplyMessage = {
            "role": "assistant",
            "content": content or (None if calls else ""),
            "refusal": None,
        }
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
        return message

    def _new_id(self) -> str:
        return new_call_id(self.call.form.calls)

    def chunks(self, event: TokenEvent) -> Iterator[ChatCompletionChunk]:
        index = self.call.index(event)
        if index not in self._streams:
            self._streams[index] = _Stream(AnswerParser(self.call.form))
            yield self._chunk(_delta(index, {"role": "assistant", "content": ""}))
        stream = self._streams[index]
        parts = stream.parser.push(event.text) + (stream.parser.flush() if event.finish else [])
        deltas = [self._delta(stream, part) for part in parts]
        tokens = [event.token] if event.token is not None and self._wants_logprobs else []
        if tokens and not deltas:
            deltas = [{"content": ""}]
        for i, delta in enumerate(deltas):
            choice = _delta(index, delta)
            choice["logprobs"] = self._logprobs(index, tokens) if tokens and i == 0 else None
            yield self._chunk(choice)
        if event.finish is not None:
            self._finishes.append(event.finish)
            last = _delta(index, {})
            last["finish_reason"] = _finish_reason(event.finish, stream.parser, has_calls=stream.num_calls > 0)
            if steering := receipt(self.call, index, event.finish, self.model):
                last["steering"] = steering
            yield self._chunk(last)

    def closing(self) -> Iterator[ChatCompletionChunk]:
        if self.call.include_usage:
            yield {**self._chunk(None), "usage": usage(self.call, self._finishes)}

    def failing(self, error: ErrorReply) -> Iterator[ErrorReply]:
        yield error

    def _delta(self, stream: _Stream, part: Part) -> Delta:
        if part.kind == "content":
            return {"content": part.text}
        if part.kind == "reasoning":
            return {"reasoning_content": part.text}
        if part.kind == "arguments":
            return {"tool_calls": [{"index": stream.num_calls - 1, "function": {"arguments": part.text}}]}
        stream.num_calls += 1
        call: DeltaToolCall = {
            "index": stream.num_calls - 1,
            "id": self._new_id(),
            "type": "function",
            "function": {"name": part.text, "arguments": ""},
        }
        return {"tool_calls": [call]}

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
        plan = self.call.choices[index].request.plan
        return {"content": [token_logprob(token, plan, self.model) for token in tokens], "refusal": None}


@dataclass
class _Stream:
    """Of one choice."""

    parser: AnswerParser
    num_calls: int = 0


def _text(parts: Sequence[Part], kind: Kind) -> str:
    return "".join(part.text for part in parts if part.kind == kind)


def _finish_reason(finish: Finish, parser: AnswerParser, *, has_calls: bool) -> ChatFinishReason:
    ended = reason(finish)
    return "tool_calls" if ended == "stop" and has_calls and not parser.is_cut else ended


def _delta(index: int, delta: Delta) -> ChunkChoice:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
