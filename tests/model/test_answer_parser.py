"""Answers taken apart: by example, and by laws that hold wherever they are cut and whatever is in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steering.model.answer_parser import AnswerForm, AnswerParser, Part
from steering.model.call_format import CallFormat
from steering.model.call_json import read_call
from steering.model.markers import Marker

THINK = Marker("<think>", "</think>")
HERMES = CallFormat(Marker("<tool_call>", "</tool_call>"), listed=False, key="arguments", before="\n", after="\n")
MISTRAL = CallFormat(Marker("[TOOL_CALLS]", None), listed=True, key="arguments", before=" ", after="")
LLAMA = CallFormat(None, listed=False, key="parameters", before="", after="")
FORMATS = {"hermes": HERMES, "mistral": MISTRAL, "llama": LLAMA}
FUNCTIONS = frozenset({"f", "g"})
PLAIN = AnswerForm()


def form(calls: CallFormat | None = HERMES, **fields: object) -> AnswerForm:
    return AnswerForm(calls=calls, functions=FUNCTIONS, reasoning=(THINK,), **fields)  # type: ignore[arg-type]


def read(text: str, how: AnswerForm, cuts: Sequence[int] = ()) -> list[tuple[str, str]]:
    """Parts, neighbours of a kind put together; text cut at the given places."""
    parser, parts, bounds = AnswerParser(how), list[Part](), [0, *sorted(cuts), len(text)]
    for start, end in pairwise(bounds):
        parts += parser.push(text[start:end])
    told: list[tuple[str, str]] = []
    for part in [*parts, *parser.flush()]:
        assert part.kind == "call" or part.text
        if told and part.kind != "call" and told[-1][0] == part.kind:
            told[-1] = (part.kind, told[-1][1] + part.text)
        else:
            told.append((part.kind, part.text))
    return told


CALL = '{"name": "f", "arguments": {"a": 1}}'
READ = [("call", "f"), ("arguments", '{"a": 1}')]
ONE = f"<tool_call>\n{CALL}\n</tool_call>"
BARE_CALL = '{"name": "g", "parameters": {}}'
EXAMPLES: dict[str, tuple[AnswerForm, str, list[tuple[str, str]]]] = {
    "no format": (PLAIN, f"<think> {ONE}", [("content", f"<think> {ONE}")]),
    "text alone": (form(), " Hi.\n", [("content", " Hi.\n")]),
    "thought, text, calls": (
        form(),
        f"<think>\nhm\n\n</think>\n\nLet me see.\n{ONE}\n{ONE}\n",
        [("reasoning", "hm"), ("content", "Let me see."), *READ, *READ],
    ),
    "a marker within a string": (
        form(),
        '<tool_call>{"name":"f","arguments":{"a":"</tool_call>}\\""}}</tool_call>',
        [("call", "f"), ("arguments", '{"a":"</tool_call>}\\""}')],
    ),
    "other order, other keys": (
        form(),
        '<tool_call>{"type":"function","arguments": {} ,"name":"g"}</tool_call>',
        [("call", "g"), ("arguments", "{}")],
    ),
    "no closing marker": (form(), f"<tool_call>{CALL}", READ),
    "text after a call": (form(), f"{ONE}\nDone.", [*READ, ("content", "\nDone.")]),
    "no JSON, and then a call": (
        form(),
        f'a <tool_call>{{"name": "f", "arguments": {{"a": }}}}</tool_call>{ONE}',
        [("content", 'a <tool_call>{"name": "f", "arguments": {"a": }}</tool_call>'), *READ],
    ),
    "an object that does not end, and then a call": (
        form(),
        f'<tool_call>{{"name": "f", "arguments": {{</tool_call> {ONE}',
        [("content", '<tool_call>{"name": "f", "arguments": {</tool_call>'), *READ],
    ),
    "cut": (form(), 'a <tool_call>\n{"name": "f", "argu', [("content", 'a <tool_call>\n{"name": "f", "argu')]),
    "half a marker": (form(), "a <tool_c", [("content", "a <tool_c")]),
    "another function": (form(), ONE.replace('"f"', '"h"'), [("content", ONE.replace('"f"', '"h"'))]),
    "arguments that are no object": (
        form(),
        '<tool_call>{"name":"f","arguments":[1]}</tool_call>',
        [("content", '<tool_call>{"name":"f","arguments":[1]}</tool_call>')],
    ),
    "a list": (form(MISTRAL), f"Hi [TOOL_CALLS] [{CALL}, {CALL}]", [("content", "Hi"), *READ, *READ]),
    "a list with an id": (form(MISTRAL), f'[TOOL_CALLS][{CALL[:-1]}, "id": "abcdefghi"}}]', READ),
    "a list that breaks off": (form(MISTRAL), f"[TOOL_CALLS] [{CALL}, 5]", [*READ, ("content", ", 5]")]),
    "an answer that is a call": (
        form(LLAMA),
        '\n{"name": "f", "parameters": {}}',
        [("call", "f"), ("arguments", "{}")],
    ),
    "several": (
        form(LLAMA),
        '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"x": [{}]}}',
        [("call", "f"), ("arguments", "{}"), ("call", "g"), ("arguments", '{"x": [{}]}')],
    ),
    "an answer that is other JSON": (form(LLAMA), ' {"a": {"b": 1}} ok', [("content", ' {"a": {"b": 1}} ok')]),
    "a call that is not the answer": (form(LLAMA), f"So: {CALL}", [("content", f"So: {CALL}")]),
    "thought that the prompt began": (
        form(None, opened=THINK),
        "\nhm</think>\n\nHi",
        [("reasoning", "hm"), ("content", "Hi")],
    ),
    "thought that does not end": (form(), "<think>hm\n</th", [("reasoning", "hm\n</th")]),
    "thought of another message": (form(None, continues=True), "<think>hm", [("content", "<think>hm")]),
    "a call of another message": (form(LLAMA, continues=True), BARE_CALL, [("content", BARE_CALL)]),
    "certain, and going on with a message": (
        form(LLAMA, continues=True, certain=True),
        BARE_CALL,
        [("call", "g"), ("arguments", "{}")],
    ),
    "certain, and cut": (
        form(certain=True),
        '<tool_call>\n{"name": "f", "arguments": {"a": [1, {"b',
        [("call", "f"), ("arguments", '{"a": [1, {"b')],
    ),
    "certain, and not so": (
        form(certain=True),
        '<tool_call>{"name": "f", "arguments": {"a": x}}</tool_call> ok',
        [("call", "f"), ("arguments", '{"a": '), ("content", "x}}</tool_call> ok")],
    ),
    "certain, and another function": (
        form(certain=True),
        ONE.replace('"f"', '"h"'),
        [("content", ONE.replace('"f"', '"h"'))],
    ),
    "nothing": (form(), "", []),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_by_example_wherever_it_is_cut(name: str) -> None:
    how, text, expected = EXAMPLES[name]
    assert read(text, how) == expected
    for size in range(1, 8):
        assert read(text, how, range(size, len(text), size)) == expected, size


LISTED = f'[TOOL_CALLS] [{CALL}, {{"name": "g", "arguments": {{}}}}]'
BARE = '{"name": "g", "parameters": {"x": [{"y": "}"}]}}'
WHOLE = ["", ONE, LISTED, BARE, f"<think>\nhm\n</think>\n\n{ONE}", f"{ONE}\n{ONE}", f"{BARE}; {BARE}"]
BITS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[", "]", "{", "}", ",", ";", '"', "\\", "<think>", "</think>"]
BITS += ["<", "\n", " ", "a", "東", "[TOOL", "\\u0041", CALL, *ONE.split(" ")]
PIECES = st.sampled_from(WHOLE) | st.sampled_from(BITS) | st.text(max_size=3)
TEXTS = st.tuples(st.sampled_from(WHOLE), st.lists(PIECES, max_size=8)).map(
    lambda drawn: "".join([drawn[0], *drawn[1]])
)
FORMS = st.builds(
    AnswerForm,
    calls=st.sampled_from([None, *FORMATS.values()]),
    functions=st.just(FUNCTIONS),
    certain=st.booleans(),
    reasoning=st.sampled_from([(), (THINK,)]),
    opened=st.sampled_from([None, THINK]),
    continues=st.booleans(),
)


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, how=FORMS, data=st.data())
def test_where_it_is_cut_does_not_matter(text: str, how: AnswerForm, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=len(text)))
    assert read(text, how, cuts) == read(text, how)


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, how=FORMS)
def test_nothing_is_lost(text: str, how: AnswerForm) -> None:
    """Every part stands in the text, in order; where nothing is called and nothing thought, it is the text."""
    at, told = 0, read(text, how)
    for kind, part in told:
        at = text.index(part, at) + (0 if kind == "call" else len(part))
    if how.opened is None and not how.reasoning and all(kind == "content" for kind, _ in told):
        assert told == ([("content", text)] if text else [])


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, how=FORMS)
def test_what_is_told_as_a_call_is_one(text: str, how: AnswerForm) -> None:
    told = read(text, how)
    for (kind, name), after in pairwise([*told, ("", "")]):
        if kind == "call":
            assert name in FUNCTIONS and (how.certain or after[0] == "arguments")
            assert how.certain or isinstance(json.loads(after[1]), dict)


def test_the_laws_are_not_vacuous() -> None:
    """Texts as they are drawn have calls in them."""
    seen = set()

    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(text=TEXTS, how=FORMS)
    def look(text: str, how: AnswerForm) -> None:
        seen.update(kind for kind, _ in read(text, how))

    look()
    assert seen == {"content", "reasoning", "call", "arguments"}


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f", "arguments": {"a": NaN}}',
        '{"name": "f", "arguments": ' + '{"a":' * 5000 + "1" + "}" * 5001,
        '{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}",
        '{"name": ["f"], "arguments": {}}',
    ],
    ids=["NaN", "deep", "long number", "name"],
)
def test_what_is_no_call_is_none(text: str) -> None:
    assert read_call(text, FUNCTIONS) is None
    whole = f"<tool_call>{text}</tool_call>"
    assert read(whole, form()) == [("content", whole)]


def test_a_long_answer_takes_time_by_its_length() -> None:
    """A megabyte, held back as a call up to its end, a few characters at a time."""
    arguments = json.dumps({"a": "x" * 1_000_000})
    text = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
    assert read(text, form(), range(0, len(text), 100)) == [("call", "f"), ("arguments", arguments)]
