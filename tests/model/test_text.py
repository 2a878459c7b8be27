"""Plain texts are encoded as transformers encodes them by default."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from steering.errors import InvalidUnicode
from steering.model.loading import LanguageModel, wrap
from steering.model.text import encode_text
from tests.models import byte_tokenizer, sentencepiece_tokenizer, tiny_hf, tiny_model

BYTE_LEVEL = tiny_model()
SENTENCEPIECE = wrap(tiny_hf(vocab_size=400), sentencepiece_tokenizer(), "sentencepiece")


@pytest.mark.parametrize("model", [BYTE_LEVEL, SENTENCEPIECE], ids=lambda model: model.name)
@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=30) | st.sampled_from(["<|user|>Hi<|end|>", "</s>", "<s> a", "  two", "東京 😀"]))
def test_ids_are_those_of_the_tokenizer_s_default(model: LanguageModel, text: str) -> None:
    ids, starts = encode_text(model, text)
    assert ids == model.tokenizer(text)["input_ids"]
    assert len(starts) == len(ids) and all(0 <= start <= len(text) for start in starts)


def test_what_begins_every_text_is_added_where_the_tokenizer_adds_it_and_nowhere_else() -> None:
    assert encode_text(BYTE_LEVEL, "Paris")[0][0] == BYTE_LEVEL.tokenizer.bos_token_id
    assert encode_text(BYTE_LEVEL, "")[0] == [BYTE_LEVEL.tokenizer.bos_token_id]
    assert SENTENCEPIECE.tokenizer.bos_token_id not in encode_text(SENTENCEPIECE, "Paris")[0]


def trimming() -> LanguageModel:
    """Its offsets leave out the space that a token begins with, as those of GPT-2's and Llama-3's tokenizers do."""
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return wrap(tiny_hf(), tokenizer, "trimming")


@pytest.mark.parametrize("model", [BYTE_LEVEL, trimming()], ids=lambda model: model.name)
def test_starts_are_characters_of_the_text(model: LanguageModel) -> None:
    text = " Paris 東京 is  the 👍🏽"
    ids, starts = encode_text(model, text)
    names = [model.tokenizer.decode([token_id]) for token_id in ids]
    whole = [
        (start, name) for name, start in zip(names, starts, strict=True) if "\ufffd" not in name and "<|" not in name
    ]
    assert len(whole) > 5 and all(text[start:].startswith(name) for start, name in whole)
    assert starts == sorted(starts) and len(whole) < len(names)


def test_J7_lone_surrogate() -> None:
    with pytest.raises(InvalidUnicode, match="character 2"):
        encode_text(BYTE_LEVEL, "ok\ud800")
