"""The requests of a soak, each drawn from its own seed, and what their replies must be."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
QUESTIONS = (
    "What is the capital of France? I think it is Lyon.",
    "What is the capital of France?",
    "Which is the capital of Japan? I am sure it is Osaka.",
    "Is Madrid the capital of Spain?",
    "I believe that the capital of Italy is Milan. What is it?",
)
SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}, "city": {"enum": ["Paris", "Lyon"]}},
    "required": ["sure", "city"],
    "additionalProperties": False,
}
STEERING: Mapping[str, object] = {
    "off": False,
    "on": True,
    "observe": {"mode": "observe"},
    "always": {"gate": "always", "strength": 0.5},
    "silent": None,
}
CANCELLED = 0.4
"""Clients that mean to leave; some are answered before, so that about three in ten do."""

Body = dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """One request, and how its client behaves."""

    kind: str
    path: str
    body: Body
    code: str | None = None
    """Of the error that it must get; None: it is answered."""
    leaves_after: float | None = None
    """Seconds after which the client leaves, come what may; None: it stays."""
    leaves_at: int | None = None
    """Frames of the stream after which it leaves; None: it stays."""

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))


def draw(seed: int, index: int) -> Ask:
    """Request `index` of a soak. Which one it is depends on nothing else."""
    dice = random.Random(f"{seed}:{index}")
    kind = dice.choice(tuple(_KINDS))
    path, fields, code = _KINDS[kind](dice)
    body: Body = {"model": "unsway-organism", "seed": dice.randrange(1000), "temperature": dice.choice((0, 0.8))}
    body["stream"] = dice.random() < 0.5
    steering = STEERING[dice.choice(tuple(STEERING))]
    if path == CHAT:
        body |= {"messages": [{"role": "user", "content": dice.choice(QUESTIONS)}], "max_tokens": dice.randint(1, 40)}
    if steering is not None:
        body["steering"] = steering
    body |= fields
    if code is None and dice.random() < CANCELLED:
        if body["stream"] and dice.random() < 0.5:
            return Ask(kind, path, body, leaves_at=dice.randint(1, 12))
        return Ask(kind, path, body, leaves_after=dice.random() ** 2 * 0.5)
    return Ask(kind, path, body, code)


Drawn = tuple[str, Body, str | None]


def _plain(dice: random.Random) -> Drawn:
    return CHAT, {}, None


def _compare(dice: random.Random) -> Drawn:
    return CHAT, {"steering": {"mode": "compare"}}, None


def _several(dice: random.Random) -> Drawn:
    return CHAT, {"n": dice.randint(2, 4), "temperature": 1.0}, None


def _logprobs(dice: random.Random) -> Drawn:
    traced = {"steering": {"mode": "on", "trace": "tokens"}} if dice.random() < 0.5 else {}
    return CHAT, {"logprobs": True, "top_logprobs": dice.randint(0, 5), **traced}, None


def _stop(dice: random.Random) -> Drawn:
    return CHAT, {"stop": dice.choice((["."], [" is", "!"]))}, None


def _schema(dice: random.Random) -> Drawn:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    return CHAT, {"response_format": form, "max_tokens": 40}, None


def _flex(dice: random.Random) -> Drawn:
    return CHAT, {"service_tier": "flex"}, None


def _several_texts(dice: random.Random) -> Drawn:
    fields = {"prompt": ["The capital of France is", "Paris"], "n": 2, "max_tokens": 8}
    return TEXT, {**fields, "echo": dice.random() < 0.5, "logprobs": dice.choice((None, 2))}, None


def _long(dice: random.Random) -> Drawn:
    """Token ids, so that the length is known; rows that cross a length class while they run preempt each other."""
    beginning, length = dice.choice((0, 1)), dice.choice((100, 200, 230, 400, 480))
    prompt = [10 + (7 * i + beginning) % 2000 for i in range(length)]
    return TEXT, {"prompt": prompt, "max_tokens": dice.randint(40, 90), "ignore_eos": True}, None


def _bad(dice: random.Random) -> Drawn:
    fields, code = dice.choice(_BAD)
    return CHAT, {**fields}, code


_BAD: tuple[tuple[Body, str], ...] = (
    ({"temperature": 3}, "decimal_above_max_value"),
    ({"n": 17}, "integer_above_max_value"),
    ({"steeering": True}, "unknown_parameter"),
    ({"steering": {"profile": "nobody"}}, "steering_profile_not_found"),
    ({"messages": []}, "array_below_min_length"),
    ({"max_tokens": 100_000}, "context_length_exceeded"),
    ({"model": "nobody"}, "model_not_found"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "unsupported_parameter"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}},
        "invalid_value",
    ),
    ({"service_tier": "cheap"}, "invalid_value"),
)
_KINDS: Mapping[str, Callable[[random.Random], Drawn]] = {
    "plain": _plain,
    "compare": _compare,
    "several answers": _several,
    "log-probabilities": _logprobs,
    "stop strings": _stop,
    "JSON schema": _schema,
    "flex": _flex,
    "several texts": _several_texts,
    "long": _long,
    "bad": _bad,
}


def num_choices(ask: Ask) -> int:
    steering, prompt = ask.body.get("steering"), ask.body.get("prompt")
    if isinstance(steering, dict) and steering.get("mode") == "compare":
        return 2
    prompts = len(prompt) if isinstance(prompt, list) and isinstance(prompt[0], str) else 1
    return prompts * int(ask.body.get("n", 1))


def wrong_with(ask: Ask, texts: list[str], reasons: list[str | None]) -> str | None:
    """What a complete reply, of choices with these texts and ends, must not be; None: all is well."""
    if len(texts) != num_choices(ask):
        return f"{len(texts)} choices"
    if not set(reasons) <= {"stop", "length"}:
        return f"ended by {reasons}"
    if ask.kind == "stop strings" and any(stop in text for text in texts for stop in ask.body["stop"]):
        return "a stop string in the text"
    if ask.kind == "JSON schema" and any(_breaks_schema(t) for t, r in zip(texts, reasons, strict=True) if r == "stop"):
        return "the schema does not hold"
    return None


def _breaks_schema(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return True
    return set(value) != {"sure", "city"} or value["city"] not in ("Paris", "Lyon")
