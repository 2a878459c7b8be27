"""Which questions may be fitted on, chosen by and tested on: decided by a hash of the question's own words."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Literal

from steering.contrast.words import FUNCTION_WORDS

Split = Literal["train", "fit", "dev", "test_a", "test_b"]
"""`train`: what an organism was trained on under pressure; other sources have no such questions."""

SPLITS: tuple[Split, ...] = ("fit", "dev", "test_a", "test_b")

BUCKETS = 1000

_ENDS: tuple[tuple[Split, int], ...] = (("fit", 400), ("dev", 600), ("test_a", 800), ("test_b", BUCKETS))

_EDGES = ".,;:!?\"'“”‘’«»()[]{}<>*_`…"  # noqa: RUF001 - quotation marks as people write them


def normalised(text: str) -> str:
    """Lower case, single spaces, no articles, no punctuation around words: what is left says the same thing."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("−", "-")  # noqa: RUF001 - the minus sign
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    words = [word.strip(_EDGES) for word in text.split()]
    words = [word for word in words if word]
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def split_of(question: str) -> Split:
    """The same for every order, case and punctuation of the same content words, whatever else is in the file."""
    number = bucket(_content(question))
    return next(split for split, end in _ENDS if number < end)


def bucket(key: str) -> int:
    """A number below `BUCKETS` that depends on `key` alone."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % BUCKETS


def _content(question: str) -> str:
    plain = normalised(question)
    return " ".join(sorted(set(plain.split()) - FUNCTION_WORDS)) or plain
