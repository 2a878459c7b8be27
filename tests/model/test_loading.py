"""Loading: a model comes up as it was saved, and everything else is one line that says why."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel, PreTrainedTokenizerFast

from steering.errors import TemplateError, UnsupportedModel
from steering.model.chat import encode_chat
from steering.model.fingerprint import fingerprint
from steering.model.loading import BUNDLED, load_model, wrap
from tests.family_tokenizers import qwen
from tests.models import FAMILY_FIELDS, VOCAB_SIZE, byte_tokenizer, tiny_hf

FAMILIES = list(FAMILY_FIELDS)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp("models") / family
        tiny_hf(family).save_pretrained(folders[family])
        tokenizer_of(family).save_pretrained(folders[family])
    return folders


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """Transformers reads a Qwen2 folder's vocabulary alone, and builds Qwen2's own splits and tokens around it."""
    return qwen() if family == "qwen2" else byte_tokenizer()


@pytest.fixture
def folder(saved: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(saved["llama"], tmp_path / "copy")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_loads_what_was_saved(saved: dict[str, Path], family: str) -> None:
    model, original = load_model(str(saved[family])), tiny_hf(family)
    ids = torch.tensor([[1, 30, 31, 32]])
    assert torch.equal(model.hf(ids).logits, original(ids).logits)
    assert (model.name, model.dtype, model.device.type) == (family, torch.float32, "cpu")
    assert model.layout.num_layers == 4
    assert not model.hf.training
    assert not any(parameter.requires_grad for parameter in model.hf.parameters())
    assert model.fingerprint == wrap(original, tokenizer_of(family), "other name").fingerprint


@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_shards_and_tied_embeddings_come_up_whole(family: str, tied: bool, tmp_path: Path) -> None:
    original = tiny_hf(family, tie_word_embeddings=tied)
    original.save_pretrained(tmp_path, max_shard_size="100KB")
    byte_tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    stored = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert ("lm_head.weight" in stored) is not tied
    model, ids = load_model(str(tmp_path)), torch.tensor([[1, 30, 31, 32]])
    assert torch.equal(model.hf(ids).logits, original(ids).logits)
    assert (model.hf.lm_head.weight is model.hf.model.embed_tokens.weight) is tied
    assert model.layout.unembed.lm_head is model.hf.lm_head


def test_a_folder_without_a_chat_template_loads_and_says_so_when_asked_to_chat(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    model = load_model(str(folder))
    with pytest.raises(TemplateError, match="copy has no chat template"):
        encode_chat(model, [{"role": "user", "content": "Hi"}])


def test_default_dtype_is_the_devices_and_a_named_one_wins(saved: dict[str, Path], tmp_path: Path) -> None:
    half = tmp_path / "half"
    tiny_hf().to(torch.bfloat16).save_pretrained(half)
    byte_tokenizer().save_pretrained(half)
    assert load_model(str(half)).dtype == torch.float32
    assert load_model(str(half), dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(str(saved["llama"]), dtype="float16", name="mine").name == "mine"


def test_stop_ids_are_those_of_the_generation_config_and_the_tokenizer(folder: Path) -> None:
    assert load_model(str(folder)).stop_ids == {2}
    edit_json(folder / "generation_config.json", eos_token_id=[5, 7])
    assert load_model(str(folder)).stop_ids == {2, 5, 7}


def test_loading_is_silent_and_leaves_transformers_logging_as_it_was(
    saved: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    before = logging.getLogger("transformers").level
    load_model(str(saved["llama"]))
    assert logging.getLogger("transformers").level == before
    assert capfd.readouterr() == ("", "")


def test_a_truncation_saved_in_the_tokenizer_is_lifted(folder: Path) -> None:
    settings = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    edit_json(folder / "tokenizer.json", truncation=settings)
    model = load_model(str(folder))
    assert len(encode_chat(model, [{"role": "user", "content": "one two three four five"}])) > 10


def test_code_that_comes_with_a_checkpoint_never_runs(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"})
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.Evil"]})
    assert type(load_model(str(folder)).hf).__name__ == "LlamaForCausalLM"
    assert not canary.exists()


def cut(name: str, keep: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: int(len(raw) * keep)])

    return damage


def lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tiny_hf().save_pretrained(folder, max_shard_size="100KB")
    next(folder.glob("model-00002-*.safetensors")).unlink()


def add_tensors(folder: Path) -> None:
    """Of a model whose code is another one's: transformers would drop them without a word."""
    tensors = load_file(folder / "model.safetensors")
    extra = {f"model.layers.{i}.self_attn.sinks": torch.ones(8) for i in range(4)}
    save_file(tensors | extra, folder / "model.safetensors", {"format": "pt"})


def lose_a_head(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_hf().state_dict(), folder / "pytorch_model.bin")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{'a': 1"), "not JSON"),
    "config nests deeply": (lambda f: (f / "config.json").write_text("[" * 200_000), "not JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "does not hold an object"),
    "no model type": (lambda f: (f / "config.json").write_text("{}"), "supported are: gemma2, gemma3_text, llama, "),
    "other family": (lambda f: edit_json(f / "config.json", model_type="gpt2"), "'gpt2' is not supported"),
    "type is a list": (lambda f: edit_json(f / "config.json", model_type=["llama"]), "['llama'] is not supported"),
    "another head": (
        lambda f: edit_json(f / "config.json", architectures=["LlamaForSequenceClassification"]),
        "is served as LlamaForCausalLM, not as LlamaForSequenceClassification",
    ),
    "foreign feature": (lambda f: edit_json(f / "config.json", attention_chunk_size=64), "attention in chunks"),
    "tensors nobody uses": (
        add_tensors,
        "weights hold 4 tensors the config has no use for, as model.layers.0.self_attn.s",
    ),
    "no head": (lose_a_head, "weights lack 1 tensors the config asks for, as lm_head.weight"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    "pickled weights": (only_pickle, "no weights"),
    "truncated weights": (cut("model.safetensors", 0.5), "SafetensorError"),
    "empty weights": (cut("model.safetensors", 0), "SafetensorError"),
    "missing shard": (lose_a_shard, "model-00002-of-"),
    "more layers than weights": (
        lambda f: edit_json(f / "config.json", num_hidden_layers=5),
        "weights lack 9 tensors the config asks for, as model.layers.4.input_layernorm.weight",
    ),
    "other width": (lambda f: edit_json(f / "config.json", hidden_size=32), "is [384, 64] in the weights, [384, 32]"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
    "truncated tokenizer": (cut("tokenizer.json", 0.5), "cannot be loaded"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_L13_damaged_folder_is_one_line(folder: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    damage, expected = DAMAGE[kind]
    damage(folder)
    capfd.readouterr()
    with pytest.raises(UnsupportedModel) as caught:
        load_model(str(folder))
    message = str(caught.value)
    assert expected in message
    assert message.startswith(str(folder))
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_config_is_refused_before_weights_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steering.model.loading.AutoModelForCausalLM", None)
    edit_json(folder / "config.json", model_type="mamba")
    with pytest.raises(UnsupportedModel, match="'mamba' is not supported"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("no-such-model", "no such folder, and not a Hugging Face id"),
        ("./no/such/model", "no such folder, and not a Hugging Face id"),
        ("../model", "no such folder, and not a Hugging Face id"),
        (__file__, "a file; expected the folder"),
    ],
)
def test_L13_no_such_model(path: str, expected: str) -> None:
    with pytest.raises(UnsupportedModel, match=expected):
        load_model(path)


def test_L13_hub_id_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnsupportedModel, match=r"^nobody/nothing: no such folder, .* offline, misspelt"):
        load_model("nobody/nothing")


def test_L13_bundled_model_without_its_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("steering.model.loading._BUNDLED_FOLDER", tmp_path / "weights")
    with pytest.raises(UnsupportedModel, match="not part of this installation"):
        load_model(BUNDLED)


@pytest.mark.parametrize("settings", [{"dtype": "int8"}, {"device": "cuda:99"}, {"device": "warp"}])
def test_L13_impossible_dtype_and_device(saved: dict[str, Path], settings: dict[str, str]) -> None:
    with pytest.raises(UnsupportedModel, match=next(iter(settings.values()))):
        load_model(str(saved["llama"]), **settings)


def test_wrap_refuses_an_embedding_smaller_than_the_tokenizer() -> None:
    with pytest.raises(UnsupportedModel, match="ids up to 383, but the model embeds only 300"):
        wrap(tiny_hf(vocab_size=300), byte_tokenizer(), "small")
    wrap(tiny_hf(vocab_size=VOCAB_SIZE + 64), byte_tokenizer(), "padded")


def test_wrap_refuses_other_architectures() -> None:
    config = BertConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, is_decoder=True)
    with pytest.raises(UnsupportedModel, match="'bert' is not supported"):
        wrap(BertLMHeadModel(config), byte_tokenizer(), "bert")


# Fingerprint


def changed_weight() -> object:
    hf = tiny_hf()
    hf.model.layers[2].mlp.down_proj.weight.data[0, 0] += 1.0
    return hf


@pytest.mark.parametrize(
    "other",
    [
        lambda: tiny_hf("qwen3"),
        lambda: tiny_hf(seed=1),
        lambda: tiny_hf(rms_norm_eps=1e-5),
        lambda: tiny_hf(rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
        lambda: tiny_hf(tie_word_embeddings=True),
        changed_weight,
    ],
    ids=["family", "seed", "eps", "rope", "tied", "one weight"],
)
def test_T5_fingerprint_tells_models_apart(other: Callable[[], object]) -> None:
    assert fingerprint(other(), byte_tokenizer()) != fingerprint(tiny_hf(), byte_tokenizer())


BASES = {"rope_type": "default", "rope_theta": 100.0}
VARIANTS: list[tuple[str, dict[str, object]]] = [
    ("gemma2", {"attn_logit_softcapping": 4.0}),
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gemma2", {"final_logit_softcapping": 4.0}),
    ("gemma2", {"query_pre_attn_scalar": 8}),
    ("gemma2", {"hidden_activation": "silu"}),
    ("gemma2", {"sliding_window": 32}),
    ("gemma2", {"layer_types": ["full_attention", "sliding_attention"] * 2}),
    ("gemma3_text", {"rope_parameters": {"full_attention": BASES, "sliding_attention": BASES}}),
    ("phi3", {"rope_parameters": BASES | {"rope_theta": 1e4}}),
    ("mistral", {"sliding_window": None}),
    ("qwen3_moe", {"num_experts_per_tok": 2}),
    ("qwen3_moe", {"norm_topk_prob": False}),
    ("mixtral", {"num_experts_per_tok": 1}),
]


@pytest.mark.parametrize(("family", "config"), VARIANTS, ids=str)
def test_T5_fingerprint_tells_what_weights_do_not_show(family: str, config: dict[str, object]) -> None:
    assert fingerprint(tiny_hf(family, **config), byte_tokenizer()) != fingerprint(tiny_hf(family), byte_tokenizer())


@pytest.mark.parametrize(
    ("family", "digest"),
    [
        ("llama", "a098282adcd0c5b98ec381416b57f577d0526205e11f3f08c46b2031bf701f72"),
        ("qwen3", "ae1241ac71a50857a303b2b541c358e4a9ddb45b08cf10b2a63f7565a5519db8"),
    ],
)
def test_T5_fingerprints_of_released_families_stay(family: str, digest: str) -> None:
    """Packs name them. Print `fingerprint(tiny_hf(family), byte_tokenizer())` to see a new one; then packs break."""
    assert fingerprint(tiny_hf(family), byte_tokenizer()) == f"sha256:{digest}"


def test_T5_fingerprint_tells_tokenizers_apart(saved: dict[str, Path]) -> None:
    def loaded() -> object:
        return load_model(str(saved["llama"])).tokenizer

    hf, reference = tiny_hf(), fingerprint(tiny_hf(), byte_tokenizer())
    template, added, merges = loaded(), loaded(), loaded()
    assert fingerprint(hf, template) == reference
    template.chat_template += " "
    added.add_tokens(["<think>"])
    state = json.loads(merges.backend_tokenizer.to_str())
    state["model"]["merges"] = state["model"]["merges"][::-1]
    merges._tokenizer = type(merges.backend_tokenizer).from_str(json.dumps(state))
    for tokenizer in (template, added, merges):
        assert fingerprint(hf, tokenizer) != reference


def test_fingerprint_does_not_depend_on_dtype_padding_or_process(saved: dict[str, Path]) -> None:
    path = str(saved["llama"])
    reference = load_model(path).fingerprint
    assert reference == load_model(path, dtype="bfloat16").fingerprint
    padded = load_model(path)
    padded.tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=8)
    assert fingerprint(padded.hf, padded.tokenizer) == reference
    program = f"from steering.model.loading import load_model; print(load_model({path!r}).fingerprint)"
    command, root = [sys.executable, "-c", program], Path(__file__).parents[2]
    other = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert other.stdout.strip() == reference
