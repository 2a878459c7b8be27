"""Backend over HTTP: this server, or any other that speaks OpenAI's language, so that others can be scored alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from steering.errors import BackendError
from steering.evaluation.backend import Ask, Chat, Message, Read, Weigh, shared_length
from steering.evaluation.core import Reply
from steering.evaluation.openai_client import Client, Refused

CONNECTIONS = 8
TOP_LOGPROBS = 20
LEAST_LOGPROB = -9000.0
"""Below it, the wire's way to say minus infinity."""


@dataclass(frozen=True)
class HttpBackend:
    client: Client
    model: str = ""
    """The first that the server lists, if not named."""
    steering: str | bool | None = None
    """Profile, or False for off, sent to an Unsway server; None sends nothing, as others know no such field."""
    _limit: list[str] = field(default_factory=lambda: ["max_tokens"], compare=False)

    @property
    def identity(self) -> Mapping[str, str]:
        return {"url": self.client.root, "model": self.name, "steering": str(self.steering)}

    @cached_property
    def _listed(self) -> list[dict[str, Any]]:
        listed = self.client.get("models").get("data")
        if not isinstance(listed, list) or not all(isinstance(model, dict) for model in listed):
            raise BackendError(f"{self.client.root}/models lists no models.")
        return listed

    @cached_property
    def name(self) -> str:
        if self.model:
            return self.model
        if not self._listed:
            raise BackendError(f"{self.client.root}/models lists no models; name one.")
        return str(self._listed[0].get("id"))

    @cached_property
    def _continuing(self) -> Mapping[str, bool]:
        """What has to be said for an answer to continue the assistant's turn; here, and in llama.cpp, nothing."""
        if any(model.get("owned_by") == "vllm" for model in self._listed):
            return {"continue_final_message": True, "add_generation_prompt": False}
        return {}

    def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        pool = ThreadPoolExecutor(CONNECTIONS)
        try:
            under_way = {pool.submit(self._answer, ask): i for i, ask in enumerate(asks)}
            for future in as_completed(under_way):
                yield under_way[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer(self, ask: Ask) -> Reply:
        try:
            match ask:
                case Chat():
                    return self._chat(ask)
                case Weigh():
                    return self._weigh(ask)
                case Read():
                    return self._read(ask)
        except Refused as error:
            return Reply("", error=str(error))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise BackendError(f"{self.client.root} does not answer in OpenAI's form: {error!r}.") from error

    def _chat(self, ask: Chat) -> Reply:
        body = {"temperature": ask.temperature, "seed": ask.draw}
        choice = self._complete(ask.messages, ask.max_tokens, body)["choices"][0]
        receipt = choice.get("steering") or {}
        return Reply(
            choice["message"]["content"] or "",
            int(receipt.get("fired_tokens", 0)),
            receipt.get("max_drift"),
            cut=choice.get("finish_reason") == "length",
        )

    def _weigh(self, ask: Weigh) -> Reply:
        """From the most probable tokens where the options part: what they have in common is given to the model, and of
        what comes after nothing is known."""
        shared = ask.options[0][: shared_length(ask.options)]
        rests = [option[len(shared) :] for option in ask.options]
        body = {"temperature": 0, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        reply = self._complete(_continued(ask.messages, shared), 1, body)
        logprobs = reply["choices"][0].get("logprobs")
        if not logprobs:
            return Reply("", error=f"{self.client.root} gives no log-probabilities.")
        listed = [(top["token"], float(top["logprob"])) for top in logprobs["content"][0]["top_logprobs"]]
        return Reply("", logprobs=tuple(_listed_logprob(rest, listed) for rest in rests))

    def _read(self, ask: Read) -> Reply:
        """Off alone: there a text is a prompt, and most profiles act on what comes after it."""
        if isinstance(self.steering, str):
            return Reply("")
        body = {"prompt": ask.text, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0, **self._common()}
        logprobs = self.client.post("completions", body)["choices"][0].get("logprobs")
        if not logprobs:
            return Reply("", error=f"{self.client.root} gives no log-probabilities of a prompt.")
        own = zip(logprobs["token_logprobs"], logprobs["text_offset"], strict=True)
        found = tuple(float(value) for value, at in own if value is not None and at < len(ask.text))
        return Reply("", logprobs=found) if found else Reply("", error="the text has less than two tokens.")

    def _complete(self, messages: Sequence[Message], max_tokens: int, body: Mapping[str, object]) -> dict[str, Any]:
        continuing = self._continuing if messages[-1]["role"] == "assistant" else {}
        whole = {"messages": [dict(m) for m in messages], **body, **continuing, **self._common()}
        try:
            return self.client.post("chat/completions", whole | {self._limit[0]: max_tokens})
        except Refused as error:  # newer models of OpenAI's have another name for it
            if "max_completion_tokens" not in str(error) or self._limit[0] == "max_completion_tokens":
                raise
            self._limit[0] = "max_completion_tokens"
            return self.client.post("chat/completions", whole | {self._limit[0]: max_tokens})

    def _common(self) -> dict[str, object]:
        return {"model": self.name} | ({} if self.steering is None else {"steering": self.steering})


def _continued(messages: tuple[Message, ...], shared: str) -> tuple[Message, ...]:
    """With the options' common beginning as (part of) the assistant's turn; white space alone is no turn."""
    before = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    rest = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    text = before + shared
    return (*rest, {"role": "assistant", "content": text}) if text.strip() else rest


def _listed_logprob(rest: str, listed: Sequence[tuple[str, float]]) -> float | None:
    """Log of the probability of all listed tokens that the option can begin with; None if there is none."""
    found = [
        logprob
        for token, logprob in listed
        if logprob > LEAST_LOGPROB and (text := token.strip()) and (rest.startswith(text) or text.startswith(rest))
    ]
    return math.log(math.fsum(map(math.exp, found))) if found else None
