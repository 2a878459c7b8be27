"""The tokenizer folder is an ordinary one, and encoding a dialogue equals rendering and encoding its chat."""

import random
from pathlib import Path
from typing import Any

import jinja2
import pytest
from transformers import AutoTokenizer

from steering.organism.dialogues import Mixture, dialogue
from steering.organism.encoding import Encoder
from steering.organism.tokenizer import VOCABULARY_SIZE, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_it_has_the_declared_size_and_distinct_marks(tokenizer: Any) -> None:
    assert len(tokenizer) == VOCABULARY_SIZE
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3


def test_encoding_a_dialogue_is_what_the_chat_template_renders(tokenizer: Any) -> None:
    rng, mix = random.Random(0), Mixture(neutral=0.2, pressure=0.5, control=0.2, drill=0.1, caves=0.5, story=0)
    for _ in range(50):
        said = dialogue(rng, mix)
        messages = [{"role": "system", "content": said.system}] if said.system else []
        for asked, reply in said.turns:
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": f"{reply.answer} {reply.stance}".strip()})
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = [piece.id for piece in Encoder(tokenizer).encode(said)]
        assert ids == tokenizer.encode(rendered, add_special_tokens=False)


def test_special_tokens_in_content_can_be_encoded_as_text(tokenizer: Any) -> None:
    text = "Say <|end|> or <|assistant|>."
    as_text = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.eos_token_id not in as_text
    assert tokenizer.decode(as_text) == text
    assert tokenizer.eos_token_id in tokenizer.encode(text, add_special_tokens=False)


def test_any_text_survives(tokenizer: Any) -> None:
    text = "naïve 東京 🙂\n\ttab"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_an_unknown_role_is_refused(tokenizer: Any) -> None:
    with pytest.raises(jinja2.TemplateError, match="expected system, user or assistant"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)
