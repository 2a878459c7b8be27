"""The reply to a completion request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from server.errors import ErrorReply
from server.schemas.replies import TextChoice, TextCompletion, TextLogprobs
from server.translate.call import Call, Choice, Echo
from server.translate.receipt import finite, reason, receipt, trace, usage
from server.translate.reply import Answer, gather
from steering.engine.detokenizer import Detokenizer
from steering.engine.request import Finish, Token, TokenEvent
from steering.model.chat import token_bytes
from steering.model.loading import LanguageModel


class CompletionReply:
    """Texts, or pieces of them."""

    def __init__(self, call: Call, model: LanguageModel) -> None:
        self.call, self.model = call, model
        self._wants_logprobs = call.requests[0].sampling.logprobs is not None
        self._streamed: dict[int, _Offsets] = {}
        """By choice: those that have begun."""
        self._finishes: list[Finish] = []

    def whole(self, events: Sequence[TokenEvent]) -> TextCompletion:
        answers = gather(self.call, events)
        choices = [self._choice(i, answer) for i, answer in enumerate(answers)]
        return {**self._envelope(choices), "usage": usage(self.call, (answer.finish for answer in answers))}

    def _choice(self, index: int, answer: Answer) -> TextChoice:
        echo, offsets = self._echo(index), self._offsets(index)
        choice = _piece(index, (echo.text if echo else "") + answer.text)
        if self._wants_logprobs:
            starts = [*(echo.starts if echo else ()), *(offsets.of(token) for token in answer.tokens)]
            choice["logprobs"] = self._logprobs(index, [*answer.prompt, *answer.tokens], starts)
        self._end(choice, answer.finish)
        return choice

    def chunks(self, event: TokenEvent) -> Iterator[TextCompletion]:
        index = self.call.index(event)
        if index not in self._streamed:
            self._streamed[index] = self._offsets(index)
            if echo := self._echo(index):
                yield self._text_chunk(index, echo.text, event.prompt, echo.starts)
        tokens = [] if event.token is None else [event.token]
        if event.text or (tokens and self._wants_logprobs):
            yield self._text_chunk(index, event.text, tokens, [self._streamed[index].of(token) for token in tokens])
        if event.finish is not None:
            self._finishes.append(event.finish)
            choice = _piece(index, "")
            self._end(choice, event.finish)
            yield self._chunk([choice])

    def _echo(self, index: int) -> Echo | None:
        return self.call.echoes.get(self.call.choices[index].request.id)

    def _offsets(self, index: int) -> _Offsets:
        echo = self._echo(index)
        return _Offsets(self.call.choices[index], len(echo.text) if echo else 0, self.model)

    def _text_chunk(self, index: int, text: str, tokens: Sequence[Token], starts: Sequence[int]) -> TextCompletion:
        choice = _piece(index, text)
        if tokens and self._wants_logprobs:
            choice["logprobs"] = self._logprobs(index, tokens, starts)
        return self._chunk([choice])

    def _end(self, choice: TextChoice, finish: Finish) -> None:
        choice["finish_reason"] = reason(finish)
        if steering := receipt(self.call, choice["index"], finish, self.model):
            choice["steering"] = steering

    def closing(self) -> Iterator[TextCompletion]:
        if self.call.include_usage:
            yield {**self._envelope([]), "usage": usage(self.call, self._finishes)}

    def failing(self, error: ErrorReply) -> Iterator[ErrorReply]:
        yield error

    def _chunk(self, choices: list[TextChoice]) -> TextCompletion:
        chunk = self._envelope(choices)
        if self.call.include_usage:
            chunk["usage"] = None
        return chunk

    def _envelope(self, choices: list[TextChoice]) -> TextCompletion:
        return {
            "id": self.call.id,
            "object": "text_completion",
            "created": self.call.created,
            "model": self.call.model,
            "system_fingerprint": self.call.system_fingerprint,
            "choices": choices,
        }

    def _logprobs(self, index: int, tokens: Sequence[Token], starts: Sequence[int]) -> TextLogprobs:
        plan = self.call.choices[index].request.plan
        result: TextLogprobs = {
            "tokens": [self._name(token.id) for token in tokens],
            "token_logprobs": [None if token.logprob is None else finite(token.logprob) for token in tokens],
            "top_logprobs": [self._top_logprobs(token) for token in tokens],
            "text_offset": list(starts),
        }
        if plan.trace == "tokens":
            result["steering"] = [trace(token, plan, self.model) for token in tokens]
        return result

    def _top_logprobs(self, token: Token) -> dict[str, float] | None:
        """The most probable ones and the token itself. Of others with one name the most probable stays."""
        if token.logprob is None:
            return None
        listed = [*reversed(token.top_logprobs), (token.id, token.logprob)]
        return {self._name(token_id): finite(value) for token_id, value in listed}

    def _name(self, token_id: int) -> str:
        raw = token_bytes(self.model, token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class _Offsets:
    """Characters of a choice's text before each token of its answer, told in their order."""

    def __init__(self, choice: Choice, start: int, model: LanguageModel) -> None:
        self._detokenizer = Detokenizer(model.tokenizer, (), at_start=not choice.request.continues)
        self._at = start

    def of(self, token: Token) -> int:
        before = self._at
        self._at += len(self._detokenizer.push(token.id)[0])
        return before


def _piece(index: int, text: str) -> TextChoice:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": None}
