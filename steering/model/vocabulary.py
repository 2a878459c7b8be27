"""The exact bytes behind each token id, for the two kinds of tokenizer that the families served have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerFast

from steering.errors import UnsupportedModel

Tokenizer = PreTrainedTokenizerFast

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What a tokenizer's ids stand for. Read-only, so any thread may use it."""

    tokenizer: PreTrainedTokenizerFast
    byte_level: bool
    """Byte-level BPE (GPT-2's alphabet); otherwise SentencePiece with byte fallback."""
    strips_first_space: bool
    """Decoding drops one space at the very beginning, which the encoder had added there."""
    added: dict[int, str]
    """Added tokens, special or not, by id: their content is text, in SentencePiece with `▁` for spaces (Gemma)."""
    special_ids: frozenset[int]
    """Control tokens; they are no part of a decoded text."""
    reserved_ids: frozenset[int]
    """Added tokens that text must not spell: the special ones, and what stands outside the model's own pieces (Qwen3's
    `<think>`). Gemma's HTML tags are pieces of text like any other."""

    def bytes_of(self, token_id: int) -> bytes:
        """UTF-8 bytes, maybe a part of a character; empty for ids beyond the tokenizer (padded logits)."""
        if token_id in self.added:
            content = self.added[token_id]
            return (content if self.byte_level else content.replace("▁", " ")).encode()
        token: str | None = self.tokenizer.backend_tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self.byte_level:
            return b"".join(_byte_level_char(char) for char in token)
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        return token.replace("▁", " ").encode()


@lru_cache(maxsize=8)
def vocabulary_of(tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
    """Raises `UnsupportedModel` for a tokenizer of another kind."""
    core = tokenizer.backend_tokenizer
    stages = list(_decoder_stages(json.loads(core.decoder.__getstate__()))) if core.decoder else []
    kinds = {stage["type"] for stage in stages}
    if not kinds & {"ByteLevel", "ByteFallback"}:
        raise UnsupportedModel("tokenizer is neither byte-level BPE nor SentencePiece with byte fallback.")
    added = tokenizer.added_tokens_decoder
    special = frozenset(token_id for token_id, token in added.items() if token.special)
    outside = {token_id for token_id, token in added.items() if core.model.token_to_id(token.content) is None}
    return Vocabulary(
        tokenizer=tokenizer,
        byte_level="ByteLevel" in kinds,
        strips_first_space=any(s["type"] == "Strip" and s["content"] == " " and s["start"] for s in stages),
        added={token_id: token.content for token_id, token in added.items()},
        special_ids=special,
        reserved_ids=special | outside,
    )


def _decoder_stages(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if decoder["type"] == "Sequence":
        for stage in decoder["decoders"]:
            yield from _decoder_stages(stage)
    else:
        yield decoder


def _byte_level_alphabet() -> dict[str, bytes]:
    """GPT-2's stand-in for each byte: itself where it is printable Latin-1, else the next from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): bytes([byte]) for byte in printable}
    return alphabet | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(others)}


_ALPHABET = _byte_level_alphabet()


def _byte_level_char(char: str) -> bytes:
    return _ALPHABET.get(char) or char.encode()
