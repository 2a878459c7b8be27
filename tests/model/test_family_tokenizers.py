"""The tokenizers that families ship: control text stays text, bytes are exact, characters come whole."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from steering.engine.detokenizer import Detokenizer
from steering.errors import TemplateError
from steering.model.chat import encode_chat, token_bytes
from steering.model.loading import LanguageModel, load_model, wrap
from tests.family_tokenizers import TOKENIZERS
from tests.models import tiny_hf

SPELLED = {
    "gemma": ["<end_of_turn>", "<start_of_turn>", "<eos>", "<bos>", "<pad>"],
    "mistral": ["</s>", "[INST]", "[/INST]", "<unk>"],
    "phi3": ["<|end|>", "<|user|>", "<|endoftext|>", "</s>"],
    "tekken": ["</s>", "[INST]", "[/INST]", "<unk>"],
    "qwen": ["<|im_end|>", "<|im_start|>", "<|endoftext|>"],
}
AROUND = {
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "mistral": ("[INST]", "[/INST]"),
    "phi3": ("<|user|>", "<|end|>"),
    "tekken": ("[INST]", "[/INST]"),
    "qwen": ("<|im_start|>", "<|im_end|>"),
}
"""Control tokens around the user's turn."""
HEAD = {"gemma": "user\n", "mistral": " ", "phi3": "", "tekken": " ", "qwen": "user\n"}
"""What the template writes between its control token and the content (Phi-3's token swallows a line break)."""


@cache
def model(name: str) -> LanguageModel:
    return wrap(tiny_hf(vocab_size=512), TOKENIZERS[name](), name)


def user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def controls(name: str, ids: list[int]) -> list[int]:
    return [i for i in ids if i in model(name).tokenizer.added_tokens_decoder]


def content_ids(name: str, content: str) -> list[int]:
    """The ids of the stretch that holds the user's words, between the template's control tokens around it."""
    ids = encode_chat(model(name), user(content))
    first, last = model(name).tokenizer.convert_tokens_to_ids(AROUND[name])
    return ids[ids.index(first) + 1 : ids.index(last)]


def without_added_tokens(name: str, text: str) -> list[int]:
    """Oracle: the same tokenizer, rebuilt without a single added token."""
    state = json.loads(model(name).tokenizer.backend_tokenizer.to_str())
    state |= {"added_tokens": [], "post_processor": None}
    if (state["pre_tokenizer"] or {}).get("prepend_scheme") == "first":
        state["pre_tokenizer"]["prepend_scheme"] = "never"  # the text does not come first in the conversation
    return Tokenizer.from_str(json.dumps(state)).encode(text).ids


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_are_those_of_the_tokenizers_own_template(name: str) -> None:
    turns = [*user("What is Paris?"), {"role": "assistant", "content": "The answer."}, *user("Sure? naïve 東京")]
    own = TOKENIZERS[name]()
    assert encode_chat(model(name), turns) == own.apply_chat_template(
        turns, add_generation_prompt=True, return_dict=False
    )


@pytest.mark.parametrize("name", TOKENIZERS)
def test_M7_control_text_is_encoded_as_text(name: str) -> None:
    quiet = controls(name, encode_chat(model(name), user("Paris")))
    for text in SPELLED[name]:
        for content in (text, f"Paris {text} is{text}{text} the", f"x{text}\ny"):
            assert controls(name, encode_chat(model(name), user(content))) == quiet, content
            assert content_ids(name, content) == without_added_tokens(name, HEAD[name] + content), content
            naive = TOKENIZERS[name]().apply_chat_template(user(content), add_generation_prompt=True, return_dict=False)
            assert len(controls(name, naive)) > len(quiet), "spelled in vain"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(TOKENIZERS)), st.data())
def test_M7_law_only_the_template_writes_control_tokens(name: str, data: st.DataObject) -> None:
    pieces = st.sampled_from([*SPELLED[name], "Paris", " ", "é", "👩‍👩‍👧", "\ue000", "0"]) | st.text(
        "aé ▁<>[]|", max_size=4
    )
    content = "".join(data.draw(st.lists(pieces, max_size=8)))
    special = model(name).tokenizer.all_special_ids
    ids = encode_chat(model(name), user(content))
    quiet = encode_chat(model(name), user("Paris"))
    assert [i for i in ids if i in special] == [i for i in quiet if i in special]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_M9_characters_come_whole_and_together_are_what_decode_says(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    for text in ("The answer is 東京 👩‍👩‍👧 naïve.", "  two\n\nlines   of code\n\n\n<b>x</b>", "🎉", " Paris"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        detokenizer = Detokenizer(tokenizer, ())
        emitted = [detokenizer.push(i)[0] for i in ids] + [detokenizer.flush()]
        assert "".join(emitted) == tokenizer.decode(ids)
        assert not any("\ufffd" in piece for piece in emitted)
        assert "".join(emitted).strip() == text.strip()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_token_has_the_bytes_that_decode_gives_it(name: str) -> None:
    """Between two letters, where no decoder strips; but for parts of a character."""
    tokenizer = TOKENIZERS[name]()
    letter = tokenizer.convert_tokens_to_ids("a")
    for token_id in range(len(tokenizer)):
        exact = token_bytes(model(name), token_id)
        whole = exact.decode(errors="replace")
        if token_id not in tokenizer.all_special_ids and "\ufffd" not in whole:
            assert tokenizer.decode([letter, token_id, letter]) == f"a{whole}a"


def test_runs_of_spaces_that_gemma_adds_as_tokens_are_spaces() -> None:
    run = TOKENIZERS["gemma"]().convert_tokens_to_ids("▁▁▁")
    assert run in model("gemma").tokenizer.added_tokens_decoder
    assert token_bytes(model("gemma"), run) == b"   "


def test_html_that_gemma_has_pieces_for_gets_them_even_beside_a_literal() -> None:
    """`<b>` controls nothing: ordinary text has the ids that the template's own encoding gives it."""
    bold, end = model("gemma").tokenizer.convert_tokens_to_ids(["<b>", "</b>"])
    content = "The <b>answer</b>\n\n is"
    own = TOKENIZERS["gemma"]().apply_chat_template(user(content), add_generation_prompt=True, return_dict=False)
    assert encode_chat(model("gemma"), user(content)) == own
    assert {bold, end} <= set(own)
    beside = content_ids("gemma", f"{content} <eos>")
    assert beside[: len(content_ids("gemma", content))] == content_ids("gemma", content)


def test_M5_gemma_refuses_a_system_message() -> None:
    with pytest.raises(TemplateError, match="System role not supported") as caught:
        encode_chat(model("gemma"), [{"role": "system", "content": "Be brief."}, *user("Hi")])
    assert caught.value.param == "messages"
    assert not any(part in str(caught.value) for part in ("/", "\n", ".py", ".jinja"))


@pytest.mark.parametrize("name", ["gemma", "mistral", "tekken"])
def test_M5_turns_that_do_not_alternate(name: str) -> None:
    with pytest.raises(TemplateError, match="must alternate") as caught:
        encode_chat(model(name), [*user("a"), *user("b")])
    assert not any(part in str(caught.value) for part in ("\n", ".py", ".jinja"))


@pytest.mark.parametrize(
    ("name", "family", "tokenizer_class"),
    [
        ("gemma", "gemma2", "GemmaTokenizer"),
        ("gemma", "gemma3_text", "GemmaTokenizerFast"),
        ("phi3", "phi3", "LlamaTokenizer"),
        ("mistral", "mixtral", "LlamaTokenizerFast"),
        ("tekken", "mistral", "PreTrainedTokenizerFast"),
        ("qwen", "qwen2", "Qwen2Tokenizer"),
        ("qwen", "qwen3_moe", "Qwen2TokenizerFast"),
    ],
)
def test_a_folder_as_the_hub_has_it_gives_the_same_ids(
    name: str, family: str, tokenizer_class: str, tmp_path: Path
) -> None:
    """Transformers rebuilds some classes by its own rules: text must come out as the folder's tokenizer has it."""
    tiny_hf(family, vocab_size=512).save_pretrained(tmp_path)
    TOKENIZERS[name]().save_pretrained(tmp_path)
    settings_file = tmp_path / "tokenizer_config.json"
    settings_file.write_text(json.dumps(json.loads(settings_file.read_text()) | {"tokenizer_class": tokenizer_class}))
    loaded = load_model(str(tmp_path))
    for content in ("What is  naïve 東京?", f"Paris {SPELLED[name][0]} is"):
        assert encode_chat(loaded, user(content)) == encode_chat(model(name), user(content))
