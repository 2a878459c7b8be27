"""Constrained answers of a random model at temperature 1: all are what their schema says, beside steering and free
neighbours; what the masks allow is what a naive walk over the tokens finds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from random import Random

import pytest
import torch

from steering.edit import Set
from steering.engine.config import EngineConfig
from steering.engine.constraint import Guide
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.errors import InvalidRequest
from steering.grammar.json_grammar import ANY_OBJECT, Grammar, build, grammar_text
from steering.model.loading import LanguageModel, wrap
from steering.model.vocabulary import vocabulary_of
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import Spy, ids
from tests.family_tokenizers import TOKENIZERS
from tests.grammar.check import valid
from tests.models import byte_tokenizer, sentencepiece_tokenizer, tiny_hf, tiny_model
from tests.plans import DRIFT, contrast, correction, steered, tuned_lens

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


@cache
def plans() -> tuple[Plan, ...]:
    """Plain, always steered, and behind a gate that fires everywhere, so that every position runs twice."""
    layout = model().layout
    always = steered(correction(Set, layout, Site("resid_post", 2)))
    lens = Detector(tuned_lens(layout, 1), -1.0)
    return Plan(), always, steered(correction(Set, layout, Site("attn_z", 1), gate=DRIFT), detector=lens)


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_is_what_its_schema_says_beside_steering(name: str, deterministic: bool) -> None:
    requests = [
        replace(constrained(name, seed), id=f"{seed}-{i}", plan=plan)
        for seed in range(6)
        for i, plan in enumerate(plans())
    ]
    answers, spy = serve(requests, deterministic=deterministic)
    for answer in answers:
        check(answer, SCHEMAS[name])
    assert any(answer.finish.reason == "stop" for answer in answers)
    assert len({answer.text for answer in answers}) > 1
    assert any(step.retried for step in spy.steps), "no position ran twice"
    assert any(answer.finish.receipt.steered_tokens for answer in answers)


def test_any_object_nests_as_deep_as_it_likes() -> None:
    for answer in serve([constrained("object", seed) for seed in range(8)])[0]:
        if answer.finish.reason == "stop":
            assert isinstance(json.loads(answer.text), dict)
    guide = grammar("object").start()
    for piece in [b'{"a":'] * 40 + [b"1"] + [b"}"] * 40:
        for byte in piece:
            token_id = byte_ids()[byte]
            assert allowed(guide) & {token_id}, piece
            guide.advance(token_id)
    assert guide.complete and not guide.failed


@pytest.mark.parametrize("deterministic", MODES)
def test_free_neighbours_and_the_order_of_a_batch_change_nothing(deterministic: bool) -> None:
    free = [Request(f"free{seed}", prompt(seed), replace(WARM, seed=seed, max_tokens=40)) for seed in range(6)]
    bound = [constrained(name, 1) for name in SCHEMAS]
    mixed = [request for pair in zip(bound, free, strict=True) for request in pair]
    answers = {a.request_id: a for a in serve(mixed, deterministic=deterministic)[0]}
    for request in mixed:
        alone = serve([request], deterministic=deterministic)[0][0]
        assert ids(answers[request.id]) == ids(alone)
        if deterministic:
            assert [t.logprob for t in answers[request.id].tokens] == [t.logprob for t in alone.tokens]


def test_answers_of_one_request_keep_their_own_state() -> None:
    request = replace(constrained("person", 3), n=4)
    engine = Engine(model(), EngineConfig(max_rows=3, context=256))
    together = engine.generate([request])
    engine.close()
    for answer, choice in zip(sorted(together, key=lambda a: a.index), request.choices, strict=True):
        check(answer, PERSON)
        assert ids(answer) == ids(serve([replace(choice, index=0)])[0][0])


def test_a_cut_answer_is_the_beginning_of_one() -> None:
    answer = serve([constrained("person", 0, max_tokens=3)])[0][0]
    assert answer.finish.reason == "length" and answer.text.startswith("{")


def test_log_probabilities_stay_the_model_s_own() -> None:
    """Of the whole vocabulary: what the mask ruled out is among the most probable."""
    answer = serve([constrained("person", 2)])[0][0]
    first = answer.tokens[0]
    assert model().tokenizer.decode([first.id]).startswith("{")
    free = serve([Request("free", prompt(2), replace(WARM, seed=2, max_tokens=1))])[0][0].tokens[0]
    assert first.top_logprobs == free.top_logprobs and first.logprob is not None


def test_what_a_contrast_rules_out_may_have_to_be_drawn() -> None:
    """The mask leaves only what plausibility took away: an answer still comes, and holds."""
    plan = steered(contrast(0.999, gate=DRIFT), detector=Detector(tuned_lens(model().layout, 1), -1.0))
    for answer in serve([replace(constrained("list", seed), plan=plan) for seed in range(4)])[0]:
        check(answer, SCHEMAS["list"])


TEXTS = ["東京は日本", "東京", "Paris 👩‍👩‍👧", "Paris", "naïve café"]


@pytest.mark.parametrize("name", ["bytes", "sentencepiece", *TOKENIZERS])
def test_masks_are_those_of_a_naive_walk(name: str) -> None:
    """For an enumeration: a token may come iff the text so far, with its bytes, begins one of the texts."""
    tokenizer = {"bytes": byte_tokenizer, "sentencepiece": sentencepiece_tokenizer, **TOKENIZERS}[name]()
    made = wrap(tiny_hf(vocab_size=512), tokenizer, name)
    vocabulary, texts = vocabulary_of(tokenizer), [json.dumps(t, ensure_ascii=False).encode() for t in TEXTS]
    for seed in range(6):
        guide, so_far, choice = build(grammar_text({"enum": TEXTS}), made).start(), b"", Random(seed)
        while not guide.complete:
            expected = {
                i
                for i in set(range(512)) - vocabulary.reserved_ids - made.stop_ids
                if (piece := vocabulary.bytes_of(i)) and any(text.startswith(so_far + piece) for text in texts)
            }
            assert expected and allowed(guide) == expected | (made.stop_ids if so_far in texts else set())
            token_id = choice.choice(sorted(expected))
            so_far += vocabulary.bytes_of(token_id)
            guide.advance(token_id)
        assert so_far in texts


def test_an_answer_may_end_where_the_grammar_may_and_not_before() -> None:
    guide = build(grammar_text({"type": "integer"}), model()).start()
    assert not allowed(guide) & model().stop_ids
    guide.advance(byte_ids()[ord("4")])
    assert not guide.complete and allowed(guide) >= model().stop_ids
    assert allowed(guide) - model().stop_ids <= {
        i for i in range(384) if vocabulary_of(model().tokenizer).bytes_of(i).isdigit()
    }


def test_what_cannot_be_promised_is_refused() -> None:
    for schema in ({"not": {}}, {"type": "array", "uniqueItems": True}, {"type": "objct"}, {"$ref": "http://a.b/c"}):
        with pytest.raises(ValueError, match=r"."):
            build(grammar_text(schema), model())


@pytest.mark.parametrize("field", [{"forced": (7,)}, {"stop_token_ids": (7,)}], ids=str)
def test_what_would_break_the_promise_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        constrained("person", 0, **field)
    assert caught.value.param == next(iter(field))


def allowed(guide: Guide) -> set[int]:
    mask = torch.zeros(16, dtype=torch.int32)  # of 512 tokens at most
    guide.write_mask(mask)
    return {32 * i + bit for i, word in enumerate(mask.tolist()) for bit in range(32) if word >> bit & 1}


@cache
def byte_ids() -> dict[int, int]:
    vocabulary = vocabulary_of(model().tokenizer)
    return {vocabulary.bytes_of(i)[0]: i for i in range(384) if len(vocabulary.bytes_of(i)) == 1}
