"""Backend in process: the engine that serves, asked directly, under one plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch

from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.errors import InvalidRequest
from steering.evaluation.backend import Ask, Chat, Message, Read, Weigh, shared_length
from steering.evaluation.core import Reply
from steering.evaluation.side_effects import Ids, divergence, forcing
from steering.model.chat import encode_chat
from steering.model.record import record
from steering.model.text import encode_text
from steering.plan import Plan

WAVE = 64
"""Asks that run together; a run that is killed loses the answers of one wave."""
TEXTS_AT_ONCE = 4
"""Texts whose distributions, or states in all layers, exist at the same time."""
MAX_TEXT = 1024
"""Tokens of a text that are read."""


@dataclass(frozen=True)
class EngineBackend:
    engine: Engine
    plan: Plan = field(default_factory=Plan)

    @property
    def identity(self) -> Mapping[str, str]:
        model = self.engine.model
        return {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "dtype": f"{model.dtype}{f', {model.quantized}' if model.quantized else ''}",
            "context": str(self.engine.context),
            "plan": self.plan.digest,
            "profile": self.plan.profile,
        }

    def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        kinds: tuple[tuple[type, int, Callable[[Sequence[Ask]], list[Reply]]], ...] = (
            (Chat, WAVE, self._chat),
            (Weigh, WAVE, self._weigh),
            (Read, TEXTS_AT_ONCE, self._read),
        )
        for kind, size, replies in kinds:
            places = [i for i, ask in enumerate(asks) if isinstance(ask, kind)]
            for first in range(0, len(places), size):
                wave = places[first : first + size]
                yield from zip(wave, replies([asks[i] for i in wave]), strict=True)

    def _chat(self, asks: Sequence[Ask]) -> list[Reply]:
        chats = [cast(Chat, ask) for ask in asks]
        requests = [self._request(str(i), chat) for i, chat in enumerate(chats)]
        done = iter(self.engine.generate([r for r in requests if isinstance(r, Request)]))
        return [_reply(next(done)) if isinstance(r, Request) else r for r in requests]

    def _request(self, id: str, chat: Chat) -> Request | Reply:
        """As long an answer as is asked for or fits; a reply if none can be had."""
        try:
            ids = tuple(encode_chat(self.engine.model, chat.messages))
        except InvalidRequest as error:
            return Reply("", error=str(error))
        if (room := self.engine.context - len(ids)) < 1:
            return Reply("", error=f"the chat has {len(ids)} tokens and the context {self.engine.context}.")
        sampling = SamplingParams(min(chat.max_tokens, room), temperature=chat.temperature, seed=chat.draw)
        return Request(id, ids, sampling, self.plan, continues=chat.messages[-1]["role"] == "assistant")

    def _weigh(self, asks: Sequence[Ask]) -> list[Reply]:
        weighings = [_Weighing.of(self.engine, cast(Weigh, ask)) for ask in asks]
        requests = [
            Request(f"{i} {j}", own.texts[0][: own.start], forcing(text[own.start :]), self.plan)
            for i, own in enumerate(weighings)
            if isinstance(own, _Weighing)
            for j, text in enumerate(own.texts)
        ]
        done = iter(_completed(self.engine, requests))
        replies = []
        for ask, own in zip(asks, weighings, strict=True):
            if isinstance(own, Reply):
                replies.append(own)
                continue
            sums = tuple(sum(token.logprob or 0.0 for token in next(done).tokens) for _ in own.texts)
            layers = self._layers(own) if cast(Weigh, ask).layers and not self.plan.acts else ()
            replies.append(Reply("", logprobs=sums, layers=layers))
        return replies

    def _layers(self, own: _Weighing) -> tuple[tuple[float, ...], ...]:
        """[L][options] logits of the options' first tokens after each block."""
        model, ids = self.engine.model, torch.tensor([[text[own.fork] for text in own.texts]])
        recording = record(model, [own.texts[0][: own.fork]])
        return tuple(
            tuple(model.layout.unembed.candidate_logits(recording.hidden[layer][-1:], ids).float()[0].tolist())
            for layer in range(1, model.layout.num_layers + 1)
        )

    def _read(self, asks: Sequence[Ask]) -> list[Reply]:
        limit = min(MAX_TEXT, self.engine.context)
        texts = [tuple(encode_text(self.engine.model, cast(Read, ask).text)[0][:limit]) for ask in asks]
        long = [text for text in texts if len(text) > 1]
        plain = iter(self._forced(long, Plan()) if self.plan.acts else [])
        own = iter(self._forced(long, self.plan))
        replies = []
        for text in texts:
            if len(text) < 2:
                replies.append(Reply("", error="the text has less than two tokens."))
                continue
            found = next(own)
            compared = divergence(next(plain), found).tolist() if self.plan.acts else []
            replies.append(Reply("", logprobs=tuple(t.logprob for t in found.tokens), divergences=tuple(compared)))
        return replies

    def _forced(self, texts: Sequence[Ids], plan: Plan) -> list[Completion]:
        """Texts as answers to their first token."""
        return _completed(
            self.engine,
            [
                Request(str(i), text[:1], forcing(text[1:], distributions=self.plan.acts), plan)
                for i, text in enumerate(texts)
            ],
        )


@dataclass(frozen=True)
class _Weighing:
    """A conversation with each of several continuations."""

    texts: tuple[Ids, ...]
    start: int
    """Tokens that all have in common with the conversation alone: where the continuations begin."""
    fork: int
    """Tokens that they have in common with each other."""

    @classmethod
    def of(cls, engine: Engine, ask: Weigh) -> _Weighing | Reply:
        """Encoded whole, since a tokenizer may join what the conversation ends with and an option begins with."""
        try:
            base = tuple(encode_chat(engine.model, ask.messages))
            texts = tuple(tuple(encode_chat(engine.model, _continued(ask.messages, o))) for o in ask.options)
        except InvalidRequest as error:
            return Reply("", error=str(error))
        if (longest := max(map(len, texts))) > engine.context:
            return Reply("", error=f"the chat has {longest} tokens and the context {engine.context}.")
        fork, shortest = shared_length(texts), min(map(len, texts))
        if fork >= shortest:
            return Reply("", error="one of the options is the beginning of another.")
        return cls(texts, shared_length([base, *texts]), fork)


def _continued(messages: tuple[Message, ...], option: str) -> tuple[Message, ...]:
    if messages[-1]["role"] == "assistant":
        return (*messages[:-1], {"role": "assistant", "content": messages[-1]["content"] + option})
    return (*messages, {"role": "assistant", "content": option})


def _completed(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    answers = engine.generate(requests)
    for answer in answers:
        if answer.finish.error:
            raise answer.finish.error
    return answers


def _reply(completion: Completion) -> Reply:
    finish = completion.finish
    if finish.error:
        return Reply("", error=str(finish.error))
    receipt = finish.receipt
    return Reply(completion.text, receipt.fired_tokens, receipt.max_drift, cut=finish.reason == "length")
