"""Constrained answers of a random model at temperature 1: all are what their schema says, beside steering and free
neighbours; what the masks allow is what a naive walk over the tokens finds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch

from steering.engine.engine import Engine, EngineConfig
from steering.engine.request import Completion, Request, SamplingParams
from steering.errors import InvalidRequest
from steering.gate import Openness
from steering.grammar.json_grammar import ANY_OBJECT, Grammar, build, grammar_text
from steering.model.loading import LanguageModel
from steering.model.vocabulary import Tokenizer, vocabulary_of
from steering.plan import Plan
from tests.engine.spy import Spy, ids
from tests.family_tokenizers import TOKENIZERS
from tests.grammar.check import valid
from tests.models import byte_tokenizer, sentencepiece_tokenizer, tiny_hf, tiny_model
from tests.plans import contrast, drift_plan, steered

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "ü", 'quo"te']}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "boolean"}, "c": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["v", "c"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS: dict[str, dict[str, object]] = {
    "person": PERSON,
    "tree": TREE,
    "enum": {"enum": ["東京", "Москва", None, 4.5, {"a": [1]}]},
    "pattern": {"type": "string", "pattern": "^(a+)+[0-9]{2}$", "maxLength": 9},
    "list": {"type": "array", "items": {"type": ["boolean", "null"]}, "minItems": 2, "maxItems": 4},
    "number": {"type": "number", "minimum": -3, "maximum": 3},
}
WARM = SamplingParams(200, temperature=1.0, logprobs=2)
MODES = [pytest.param(False, id="default"), pytest.param(True, id="deterministic")]


@cache
def model() -> LanguageModel:
    return tiny_model()


@cache
def grammar(name: str) -> Grammar:
    return build(grammar_text(SCHEMAS.get(name, ANY_OBJECT)), model())


def prompt(seed: int) -> tuple[int, ...]:
    return tuple(torch.randint(6, 384, (5 + seed % 7,), generator=torch.Generator().manual_seed(seed)).tolist())


def constrained(name: str, seed: int, **fields: object) -> Request:
    sampling = replace(WARM, seed=seed, constraint=grammar(name), **fields)  # type: ignore[arg-type]
    return Request(f"{name}-{seed}", prompt(seed), sampling)


def serve(requests: list[Request], *, deterministic: bool = False) -> tuple[list[Completion], Spy]:
    engine = Engine(model(), EngineConfig(max_rows=6, context=256, deterministic=deterministic))
    spy = Spy(engine)
    answers = engine.generate(requests)
    engine.close()
    return answers, spy


def check(answer: Completion, schema: Mapping[str, object]) -> None:
    """A whole answer holds; one that was cut is the beginning of one."""
    if answer.finish.reason == "length":
        assert len(answer.tokens) == WARM.max_tokens
        return
    assert answer.finish.reason == "stop", answer.finish
    assert valid(json.loads(answer.text), schema), answer.text


def plans() -> list[Plan]:
    """Plain, always steered, and behind a gate that fires again and again, so that positions run twice."""
    layout = model().layout
    return [Plan(), steered(model()), drift_plan(model())]
