"""What an answer is in the midst of, from its tokens alone: fences, tool calls, reasoning; however they are split."""

from __future__ import annotations

import random
import re
from functools import cache

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from steering.engine.spans import SpanReader
from steering.model.markers import Markers, markers_of
from steering.model.vocabulary import vocabulary_of
from tests import family_tokenizers
from tests.models import byte_tokenizer, sentencepiece_tokenizer

HERMES = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<tool_call>{}</tool_call><think></think>"
LLAMA = """{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{{ '<|python_tag|>' }}"""
MISTRAL = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}[TOOL_CALLS]"


@cache
def with_template(template: str, *reserved: str, special: bool = False) -> PreTrainedTokenizerFast:
    """The byte-level tokenizer with tokens of its own for some markers."""
    core = byte_tokenizer.__wrapped__().backend_tokenizer
    core.add_tokens([AddedToken(text, special=special, normalized=False) for text in reserved])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|begin|>", eos_token="<|end|>")
    tokenizer.chat_template = template
    return tokenizer


def tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def bytewise(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """One token a byte: every marker is split."""
    alphabet = {vocabulary_of(tokenizer).bytes_of(i): i for i in range(len(tokenizer))}
    return [alphabet[bytes([byte])] for byte in text.encode()]


def inside(tokenizer: PreTrainedTokenizerFast, kind: str, ids: list[int], prompt: list[int] | None = None) -> str:
    """The text of the tokens that are sampled while a span of the kind is open."""
    reader, vocabulary = SpanReader(tokenizer, prompt or [1]), vocabulary_of(tokenizer)
    is_open, within = kind in reader.kinds, b""
    for token_id in ids:
        within += vocabulary.bytes_of(token_id) if is_open else b""
        is_open = kind in reader.push(token_id)
    return within.decode()


FENCES = [
    ("Look:\n```python\nx = 1\n```\nThat is all.", "python\nx = 1\n```\n"),
    ("```\na\n```", "\na\n```"),
    ("~~~\na\n```\n~~~\nb", "\na\n```\n~~~\n"),
    ("````\n```\nx\n```\n````\nb", "`\n```\nx\n```\n````\n"),
    ("```a\n````\nb", "a\n````\n"),
    ("```a\n``` no\nb", "a\n``` no\nb"),
    ("```a\n```  \t\nb", "a\n```  \t\n"),
    ("```a\r\nx\r\n```\r\nb", "a\r\nx\r\n```\r\n"),
    ("* item\n\n    ```\n    x\n    ```\n  b", "\n    x\n    ```\n"),
    ("> ```\n> x\n> ```\n> b", "\n> x\n> ```\n"),
    ("```one``` line\nb", "one`"),
    ("~~~one`\nb", "one`\nb"),
    ("`x` and ``y``\nb", ""),
    ("``\nno fence\n``", ""),
    ("see ```x``` there\n", ""),
    ("Never closed:\n```\nx = '''\n", "\nx = '''\n"),
    ("東京\n```\n京\n```\n都", "\n京\n```\n"),
    ("~~\n~~~ruby`x`\ny\n~~~~\nz", "ruby`x`\ny\n~~~~\n"),
]


@pytest.mark.parametrize(("text", "within"), FENCES)
def test_fences_byte_by_byte(text: str, within: str) -> None:
    tokenizer = byte_tokenizer()
    assert inside(tokenizer, "code", bytewise(tokenizer, text)) == within
    assert inside(tokenizer, "tool_calls", bytewise(tokenizer, text)) == ""


def test_a_fence_in_the_middle_of_a_token() -> None:
    """What stands after it in its token was sampled outside; what stands before it in a closing one, within."""
    tokenizer = with_template("", "a:\n```py", "\nx", "\n```\nb", "```\n```", "c")
    ids = tokens(tokenizer, "a:\n```py\nx\n```\nbc")
    assert [vocabulary_of(tokenizer).bytes_of(i).decode() for i in ids] == ["a:\n```py", "\nx", "\n```\nb", "c"]
    assert inside(tokenizer, "code", ids) == "\nx\n```\nb"
    assert inside(tokenizer, "code", tokens(tokenizer, "```\n```c")) == "c", "opened and not closed: the line goes on"


@pytest.mark.parametrize("make", [byte_tokenizer, sentencepiece_tokenizer, *family_tokenizers.TOKENIZERS.values()])
def test_split_anyhow_it_is_the_same_text(make: object) -> None:
    """A tokenizer's own split and one by bytes agree at every character they both end at."""
    tokenizer = make()  # type: ignore[operator]
    ids = tokens(tokenizer, "It is 2.\n```\nParis\n```\nAnd so on.")
    reader, vocabulary, text = SpanReader(tokenizer, []), vocabulary_of(tokenizer), b""
    seen = {}
    for token_id in ids:
        text += vocabulary.bytes_of(token_id)
        seen[text.decode().lstrip(" ")] = "code" in reader.push(token_id)
    assert len(seen) > 8 and sum(seen.values()) >= 3 and not all(seen.values())
    for so_far, is_open in seen.items():
        opened = len(re.findall(r"^```", so_far, re.MULTILINE))
        assert is_open == (opened == 1 or (opened == 2 and so_far.endswith("```"))), so_far


def test_it_agrees_with_a_parser_of_whole_lines() -> None:
    """Random texts of fences: at line ends, the reader is where a parser that sees whole lines is."""
    noise, tokenizer = random.Random(0), byte_tokenizer()
    pieces = ["```", "~~~", "````", "`", "x", " ", "\n", "\n", "\n```\n", "py"]
    opened = 0
    for _ in range(400):
        text = "".join(noise.choice(pieces) for _ in range(14))
        reader, fence = SpanReader(tokenizer, []), ""
        for line in text.splitlines(keepends=True):
            for token_id in bytewise(tokenizer, line):
                kinds = reader.push(token_id)
            if not line.endswith("\n"):
                continue
            match = re.match(r"[ \t]*(`{3,}|~{3,})(.*)$", line)
            if match and not fence and not (match[1][0] == "`" and "`" in match[2]):
                fence = match[1]
            elif match and fence and match[1].startswith(fence) and not match[2].strip():
                fence = ""
            assert ("code" in kinds) == bool(fence), text
            opened += bool(fence)
    assert opened > 400


def test_what_templates_mark() -> None:
    assert markers_of(byte_tokenizer()) == Markers()
    hermes, llama, mistral = (markers_of(with_template(t)) for t in (HERMES, LLAMA, MISTRAL))
    assert [m.opens for m in (*hermes.tool_calls, *hermes.reasoning)] == ["<tool_call>", "<think>"]
    assert [m.opens for m in llama.tool_calls] == ["<|python_tag|>"] and llama.bare_calls and not llama.reasoning
    assert [m.opens for m in mistral.tool_calls] == ["[TOOL_CALLS]"] and not mistral.bare_calls
    by_name = with_template("", "</s>")
    by_name.chat_template = {"default": "", "tool_use": HERMES}
    markers_of.cache_clear()
    assert markers_of(by_name).tool_calls == hermes.tool_calls
    added = markers_of(with_template("", "[THINK]", "[/THINK]", special=True))
    assert [m.closes for m in added.reasoning] == ["[/THINK]"] and not added.tool_calls


@pytest.mark.parametrize("reserved", [(), ("<think>", "</think>", "<tool_call>", "</tool_call>")])
def test_reasoning_and_calls_are_told_apart(reserved: tuple[str, ...]) -> None:
    """Whether a marker is one token or is spelt in many."""
    tokenizer = with_template(HERMES, *reserved)
    text = '<think>hm\n```\nx</think>\n\nSo:\n```\n1\n```\n<tool_call>\n{"a": "\n```\n"}\n</tool_call>\nb <think>'
    ids = tokens(tokenizer, text) if reserved else bytewise(tokenizer, text)
    assert inside(tokenizer, "reasoning", ids) == "hm\n```\nx</think>"
    assert inside(tokenizer, "tool_calls", ids) == '\n{"a": "\n```\n"}\n</tool_call>'
    # What reasoning leaves open is none of the answer's; what a call holds is no fence of the answer's.
    assert inside(tokenizer, "code", ids) == "\nx</think>" + "\n1\n```\n"


MENTIONS = [
    ("```xml\n<tool_call>\n```\nDone.", "xml\n<tool_call>\n```\n"),
    ('```\n<tool_call>\n{"name": 1}\n```\nDone.', '\n<tool_call>\n{"name": 1}\n```\n'),
    ("```\n<think>\n```\nDone.", "\n<think>\n```\n"),
    ("Use `<tool_call>` to call.\n```\nx\n```\n", "\nx\n```\n"),
    ("Write `<think>` first. Then Paris.", ""),
    ("<tool_call>\n```\nx\n```\nDone.", "\nx\n```\n"),
]


@pytest.mark.parametrize(("text", "code"), MENTIONS)
def test_a_mention_opens_nothing_and_code_ends(text: str, code: str) -> None:
    """As the answer is read for its client: what is neither followed by a call nor what the answer begins with."""
    tokenizer = with_template(HERMES)
    assert inside(tokenizer, "code", bytewise(tokenizer, text)) == code
    assert inside(tokenizer, "reasoning", bytewise(tokenizer, text)) == ""
    if "{" not in text:
        reader = SpanReader(tokenizer, [])
        for token_id in bytewise(tokenizer, text):
            kinds = reader.push(token_id)
        assert kinds == set()


def test_control_tokens_are_markers_too() -> None:
    """They are no part of the text that a client sees, and nothing closes them but the end."""
    tokenizer = with_template(LLAMA, "<|python_tag|>", special=True)
    ids = tokens(tokenizer, "So<|python_tag|>f(1)\n```")
    assert inside(tokenizer, "tool_calls", ids) == "f(1)\n```" and inside(tokenizer, "code", ids) == ""


@pytest.mark.parametrize(
    ("text", "within"),
    [
        ('{"name": "f"}', '"name": "f"}'),
        (' \n{ "name": 1', ' "name": 1'),
        ('{"type": "function"}', '"type": "function"}'),
        ('{"answer": 1}', '"a'),
        ('Well, {"name": 1}', ""),
        ("{name}", "n"),
    ],
)
def test_calls_without_a_marker(text: str, within: str) -> None:
    """The whole answer, from its brace on, until it turns out to be none."""
    tokenizer = with_template(LLAMA)
    assert inside(tokenizer, "tool_calls", bytewise(tokenizer, text)) == within
    assert inside(with_template(HERMES), "tool_calls", bytewise(with_template(HERMES), text)) == ""


def test_a_turn_that_is_gone_on_with() -> None:
    """What the prompt holds of the answer's own turn counts, and of other turns nothing."""
    tokenizer = with_template(HERMES, "<think>", "</think>")
    user = "<|user|>```\nnever closed <think>"
    for turn, kind in (("<think>\n", "reasoning"), ("Here:\n```py\n", "code"), ("<think></think>", ""), ("", "")):
        reader = SpanReader(tokenizer, tokens(tokenizer, f"{user}<|assistant|>{turn}"))
        assert reader.kinds == ({kind} if kind else set())
    assert SpanReader(tokenizer, tokens(tokenizer, "A plain text.\n```\n")).kinds == {"code"}
    mistral = with_template(MISTRAL, "[TOOL_CALLS]", special=True)
    assert SpanReader(mistral, tokens(mistral, "<|user|>x<|assistant|>[TOOL_CALLS]")).kinds == {"tool_calls"}
