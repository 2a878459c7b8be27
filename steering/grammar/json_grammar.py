"""Grammar: JSON and JSON schemas as constraints of answers, by llguidance's token masks.

The library reads a schema as an Earley grammar over bytes and walks the tokenizer's trie with it: a token is allowed
iff its bytes can go on, so tokens that end within a character, or that stand for a single byte, need no care. It never
encodes text (`no_forcing`): the model is free to spell an answer in any of its tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from torch import Tensor

from steering.engine.constraint import Guide
from steering.grammar.trial import limits
from steering.model.loading import LanguageModel
from steering.model.vocabulary import vocabulary_of

HEADER = '%llguidance {"no_forcing": true}'
"""Of every grammar."""
ANY_OBJECT: Mapping[str, object] = {"type": "object"}
"""The schema of any JSON object, nested as deep as its answer is long."""

WHITESPACE = r"[\x20\x0A]|\n\x20{1,32}"
"""Between the parts of a JSON text: none, one, or a line indented. Without a bound a model may write nothing else."""


@dataclass(frozen=True, eq=False)
class Grammar:
    """A constraint: JSON that a schema describes. Made where a schema is known to be read quickly (`compiler`)."""

    matcher: LLMatcher
    """At the beginning of an answer; never moved."""
    stop_ids: tuple[int, ...]

    def start(self) -> Guide:
        return GrammarGuide(self.matcher.deep_copy(), self.stop_ids)


class GrammarGuide:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: LLMatcher, stop_ids: tuple[int, ...]) -> None:
        self._matcher, self._stop_ids = matcher, stop_ids

    def write_mask(self, mask: Tensor) -> None:
        words = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.int32)
        width = min(len(mask), len(words))  # the library may have a token more than the model
        mask[:width] = words[:width]
        ends = self._matcher.is_accepting()
        for token_id in self._stop_ids:  # the library knows of one of them
            word, bit = divmod(token_id, 32)
            value = int(mask[word]) & 0xFFFFFFFF
            value = value | 1 << bit if ends else value & ~(1 << bit)
            mask[word] = value - (value >> 31 << 32)  # as a signed integer

    def advance(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)

    @property
    def complete(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def failed(self) -> bool:
        return self._matcher.is_error()


def grammar_text(schema: Mapping[str, object]) -> str:
    """In the library's own form."""
    return f"{HEADER}\n{json_rule('start', schema)}"


def json_rule(name: str, schema: Mapping[str, object]) -> str:
    """A rule for JSON that the schema describes."""
    options = {"whitespace_pattern": WHITESPACE}
    return f"{name}: %json " + json.dumps({**schema, "x-guidance": options})


def build(text: str, model: LanguageModel) -> Grammar:
    """text: from `grammar_text`. Raises `ValueError` with the library's words if it cannot be served."""
    matcher = LLMatcher(_tokenizer(model), text, log_level=0, limits=limits())
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    return Grammar(matcher, tuple(sorted(model.stop_ids)))


class _Tokens:
    """A vocabulary as the library asks for it: special tokens spell nothing."""

    bos_token_id = None

    def __init__(self, model: LanguageModel) -> None:
        vocabulary, V = vocabulary_of(model.tokenizer), model.layout.vocab_size
        self.eos_token_id = min(model.stop_ids, default=V)
        specials = {i for i in vocabulary.reserved_ids | model.stop_ids if i < V}
        # A name each: the library takes special tokens of one name for one another.
        self.tokens = [f"<{i}>".encode() if i in specials else vocabulary.bytes_of(i) for i in range(V)]
        if not model.stop_ids:  # the library wants one; beyond the logits it harms nobody
            self.tokens.append(f"<{V}>".encode())
            specials.add(V)
        self.special_token_ids = sorted(specials)

    def __call__(self, text: object) -> list[int]:
        raise AssertionError("nothing is encoded with no_forcing")


@lru_cache(maxsize=2)
def _tokenizer(model: LanguageModel) -> LLTokenizer:
    """Takes a second for a large vocabulary."""
    tokens = _Tokens(model)
    return LLTokenizer(TokenizerWrapper(tokens), n_vocab=len(tokens.tokens))
