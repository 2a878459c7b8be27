"""Grammars of calls: what they allow, walked at random over a whole vocabulary, is read as calls of their schemas."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
import torch

from steering.errors import InvalidSchema
from steering.grammar.call_grammar import NO_ARGUMENTS, CallsShape, Function, reserved_tokens
from steering.grammar.compiler import GrammarCompiler
from steering.model.answer_parser import AnswerForm, AnswerParser
from steering.model.call_format import call_format
from steering.model.vocabulary import vocabulary_of
from tests.grammar.check import valid
from tests.tool_models import tool_model

SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "</tool_call>", "東"]}, "b": {"type": "array", "items": {"type": "integer"}}},
    "required": ["a"],
    "additionalProperties": False,
}
FUNCTIONS = (Function("f", SCHEMA), Function("g", NO_ARGUMENTS))


def shape(model: str, **fields: Any) -> CallsShape:
    loaded = tool_model(model)
    form = call_format(loaded)
    tokens = tuple(reserved_tokens(form.marks, loaded).items())
    return CallsShape(FUNCTIONS, form, tokens=tokens, **({"most": 3} | fields))


def walk(model: str, of: CallsShape, seed: int, steps: int = 300) -> str | None:
    """An answer: a token that may come is taken, an end where there may be one; None if none came in time."""
    loaded, choice = tool_model(model), Random(seed)
    vocabulary, guide = vocabulary_of(loaded.tokenizer), GrammarCompiler(loaded).compile(of).start()
    said = b""
    for _ in range(steps):
        mask = torch.zeros(16, dtype=torch.int32)
        guide.write_mask(mask)
        allowed = [i for i in range(512) if int(mask[i // 32]) >> i % 32 & 1]
        assert allowed and not guide.failed
        if set(allowed) & loaded.stop_ids:
            return said.decode()
        token_id = choice.choice(allowed)
        guide.advance(token_id)
        said += vocabulary.bytes_of(token_id)
    return None


@pytest.mark.parametrize("model", ["qwen", "llama", "mistral"])
@pytest.mark.parametrize("most", [1, 3])
def test_what_is_allowed_is_calls(model: str, most: int) -> None:
    of = shape(model, most=most)
    form = AnswerForm(calls=of.format, functions=frozenset({"f", "g"}))
    answers = [text for seed in range(8) if (text := walk(model, of, seed)) is not None]
    assert len(answers) > 4
    for text in answers:
        parser = AnswerParser(form)
        parts = [*parser.push(text), *parser.flush()]
        assert {part.kind for part in parts} == {"call", "arguments"}, text
        for name, arguments in zip(parts[::2], parts[1::2], strict=True):
            assert valid(json.loads(arguments.text), SCHEMA if name.text == "f" else NO_ARGUMENTS)


@pytest.mark.parametrize("model", ["qwen", "mistral"])
def test_a_marker_is_its_token_alone(model: str) -> None:
    """Not any other control token, and not a text that spells it."""
    loaded, of = tool_model(model), shape(model)
    mask = torch.zeros(16, dtype=torch.int32)
    GrammarCompiler(loaded).compile(of).start().write_mask(mask)
    assert [i for i in range(512) if int(mask[i // 32]) >> i % 32 & 1] == [dict(of.tokens)[of.format.marker.opens]]  # type: ignore[union-attr]


def test_a_text_may_be_instead() -> None:
    of = shape("qwen", or_text=True, spare=(375, 376))
    guide = GrammarCompiler(tool_model("qwen")).compile(of).start()
    core = tool_model("qwen").tokenizer.backend_tokenizer
    for token_id in [375, *core.encode("What is {it}?").ids, 376]:
        mask = torch.zeros(16, dtype=torch.int32)
        guide.write_mask(mask)
        assert int(mask[token_id // 32]) >> token_id % 32 & 1
        guide.advance(token_id)
    mask = torch.zeros(16, dtype=torch.int32)
    guide.write_mask(mask)
    assert int(mask[373 // 32]) >> 373 % 32 & 1, "a call may begin"
    assert all(int(mask[i // 32]) >> i % 32 & 1 for i in tool_model("qwen").stop_ids), "or it may end"


@pytest.mark.parametrize("spare", [(375, 376), ()])
def test_no_text_spells_a_call(spare: tuple[int, ...]) -> None:
    """In whatever pieces: the marker is its token, after which the grammar sees to what is called."""
    loaded = tool_model("qwen")
    vocabulary = vocabulary_of(loaded.tokenizer)
    letters = {vocabulary.bytes_of(i): i for i in range(512) if len(vocabulary.bytes_of(i)) == 1}
    guide = GrammarCompiler(loaded).compile(shape("qwen", or_text=True, spare=spare)).start()
    said = ""
    for char in "a <tool_call>":
        mask, token_id = torch.zeros(16, dtype=torch.int32), letters[char.encode()]
        guide.write_mask(mask)
        if not int(mask[token_id // 32]) >> token_id % 32 & 1:
            break
        guide.advance(token_id)
        said += char
    assert said == "a <tool_call"


def test_an_answer_that_is_no_call_does_not_begin_like_one() -> None:
    """Where calls have no marker, and are what the answer begins with."""
    of, core = shape("llama", or_text=True), tool_model("llama").tokenizer.backend_tokenizer
    guide = GrammarCompiler(tool_model("llama")).compile(of).start()
    space, brace = (core.token_to_id(token) for token in ("Ġ", "{"))
    for token_id, may_follow in ((space, True), (brace, False)):
        mask = torch.zeros(16, dtype=torch.int32)
        guide.write_mask(mask)
        assert bool(int(mask[token_id // 32]) >> token_id % 32 & 1) == may_follow
        if may_follow:
            guide.advance(token_id)


def test_a_schema_that_cannot_be_promised_is_refused() -> None:
    of = shape("qwen")
    bad = CallsShape((Function("f", {"type": "object", "not": {}}),), of.format, most=1, tokens=of.tokens)
    with pytest.raises(InvalidSchema, match="not"):
        GrammarCompiler(tool_model("qwen")).compile(bad)
