"""Checkpoints of tuned-lens: there and back, the package itself on what we write, and what is refused."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import steering.cli
from steering.errors import LensError
from steering.interop.tuned_lens import CONFIG, PARAMS, read_checkpoint, write_checkpoint
from steering.lens import full_readout
from steering.lens_file import load_lens, save_lens
from tests.command_line import unsway
from tests.models import byte_tokenizer, tiny_hf, tiny_model
from tests.plans import whole_lens
from tests.test_lens_file import same

MODEL = tiny_model()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_checkpoint(whole_lens(MODEL, first=0), tmp_path / "checkpoint", MODEL)
    return tmp_path / "checkpoint"


def test_there_and_back(checkpoint: Path) -> None:
    back = read_checkpoint(checkpoint, MODEL)
    assert same(back, whole_lens(MODEL, first=0)) and len(back.lenses) == 4
    assert (back.fingerprint, back.origin) == (MODEL.fingerprint, "from a tuned-lens checkpoint for tiny-llama-0")
    config = json.loads((checkpoint / CONFIG).read_text())
    assert (config["d_model"], config["num_hidden_layers"], config["lens_type"]) == (64, 4, "linear_tuned_lens")


def test_the_layout_by_hand(tmp_path: Path) -> None:
    """As another program writes it: translator i is ours at layer i, in the type it was trained in."""
    state = {f"{i}.weight": torch.full((64, 64), i / 8, dtype=torch.float16) for i in range(4)}
    state |= {f"{i}.bias": torch.full((64,), -i / 8, dtype=torch.float16) for i in range(4)}
    torch.save(state, tmp_path / PARAMS)
    config = {"base_model_name_or_path": "org/m", "d_model": 64, "num_hidden_layers": 4, "base_model_revision": "abc"}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    whole = read_checkpoint(tmp_path, MODEL)
    assert whole.origin == "from a tuned-lens checkpoint for org/m at abc"
    for layer, lens in whole.lenses.items():
        assert (lens.layer, lens.weight[0, 0].item(), lens.bias[0].item()) == (layer, layer / 8, -layer / 8)
        assert lens.weight.dtype == torch.float16
    (tmp_path / CONFIG).write_text(json.dumps(config | {"bias": False}))
    torch.save({name: t for name, t in state.items() if name.endswith("weight")}, tmp_path / PARAMS)
    assert not any(lens.bias.any() for lens in read_checkpoint(tmp_path, MODEL).lenses.values())


def test_embeddings_without_a_lens_are_read_as_they_are(tmp_path: Path) -> None:
    write_checkpoint(whole_lens(MODEL), tmp_path, MODEL)
    back = read_checkpoint(tmp_path, MODEL)
    assert sorted(back.lenses) == [0, 1, 2, 3]
    assert not back.lenses[0].weight.any() and not back.lenses[0].bias.any() and back.lenses[1].weight.any()


def test_the_package_reads_what_we_write(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = pytest.importorskip("tuned_lens.nn.lenses", reason="tuned-lens is not installed", exc_type=ImportError)
    with caplog.at_level(logging.WARNING):
        lens = theirs.TunedLens.from_model_and_pretrained(MODEL.hf, str(checkpoint))
    assert not caplog.records, "it warns of an unembedding or a key that it does not know"
    hidden = MODEL.hf(torch.arange(6, 30)[None], use_cache=False, output_hidden_states=True).hidden_states
    for layer, ours in whole_lens(MODEL, first=0).lenses.items():
        with torch.no_grad():
            expected = lens(hidden[layer][0], layer)
        found = full_readout(ours, MODEL.layout.unembed, hidden[layer][0])
        assert torch.allclose(found, expected, atol=1e-5)
        assert not torch.allclose(found, MODEL.layout.unembed.logits(hidden[layer][0]), atol=0.1)


def test_we_read_what_the_package_writes(tmp_path: Path) -> None:
    theirs = pytest.importorskip("tuned_lens.nn.lenses", reason="tuned-lens is not installed", exc_type=ImportError)
    lens, noise = theirs.TunedLens.from_model(MODEL.hf), torch.Generator().manual_seed(0)
    for parameter in lens.layer_translators.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=noise) * 0.1)
    lens.save(tmp_path)
    hidden = torch.randn(5, 64, generator=noise)
    for layer, ours in read_checkpoint(tmp_path, MODEL).lenses.items():
        with torch.no_grad():
            assert torch.allclose(ours.translate(hidden), lens.transform_hidden(hidden, layer), atol=1e-6)


def test_another_models_checkpoint(checkpoint: Path) -> None:
    other = tiny_model(seed=1)
    with pytest.raises(
        LensError, match=r"tiny-llama-0, whose unembedding is not that of tiny-llama-1.*--any-unembedding"
    ):
        read_checkpoint(checkpoint, other)
    assert read_checkpoint(checkpoint, other, any_unembedding=True).fingerprint == other.fingerprint
    for changes, message in (
        ({"hidden_size": 128}, "d_model is 64, of tiny-llama-0 it is 128"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 4, of tiny-llama-0 it is 3"),
    ):
        with pytest.raises(LensError, match=message):
            read_checkpoint(checkpoint, tiny_model(**changes), any_unembedding=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": None}, "d_model has the wrong type"),
        ({"num_hidden_layers": True}, "num_hidden_layers has the wrong type"),
        ({"lens_type": "quadratic"}, "lens_type must be 'linear_tuned_lens', got 'quadratic'"),
        ({"num_layers": 4}, "'num_layers' is no key of tuned-lens 0.2"),
    ],
)
def test_configs_that_are_none(checkpoint: Path, changes: dict[str, object], message: str) -> None:
    path = checkpoint / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(LensError, match=message):
        read_checkpoint(checkpoint, MODEL)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"d_model": NaN}', "[" * 10_000])
def test_configs_that_cannot_be_read(checkpoint: Path, text: str) -> None:
    (checkpoint / CONFIG).write_text(text)
    with pytest.raises(LensError, match=r"not valid JSON|must be an object|is missing"):
        read_checkpoint(checkpoint, MODEL)


class Code:
    """A pickle that would call a function."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (Path.touch, (Path("called"),))  # type: ignore[return-value]


def test_parameters_that_are_none(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint / PARAMS
    raw, state = path.read_bytes(), torch.load(path, weights_only=True)
    for broken in (raw[: len(raw) // 2], b"", b"x" * 100, pickle.dumps({"0.weight": 1}, protocol=2)):
        path.write_bytes(broken)
        with pytest.raises(LensError, match=r"params\.pt (is damaged|cannot be read|must hold tensors)"):
            read_checkpoint(checkpoint, MODEL)
    monkeypatch.chdir(checkpoint)
    torch.save(Code(), path)
    with pytest.raises(LensError, match="holds more than tensors"):
        read_checkpoint(checkpoint, MODEL)
    assert not (checkpoint / "called").exists()
    for wrong in ([state["0.bias"]], {"0.weight": 3}, {0: state["0.bias"]}):
        torch.save(wrong, path)
        with pytest.raises(LensError, match="must hold tensors by name"):
            read_checkpoint(checkpoint, MODEL)
    for name, message in (("0", "tensor 0.weight is missing"), ("2", "got 0 to 3, 3 of them")):
        torch.save({key: value for key, value in state.items() if not key.startswith(name)}, path)
        with pytest.raises(LensError, match=message):
            read_checkpoint(checkpoint, MODEL)
    path.unlink()
    with pytest.raises(LensError, match="cannot be read"):
        read_checkpoint(checkpoint, MODEL)


def test_the_commands(tmp_path: Path) -> None:
    """Into a file, out of it again, and the same numbers; wrong ones are one line."""
    folder, other = tmp_path / "model", tmp_path / "other"
    for seed, path in enumerate((folder, other)):
        tiny_hf(seed=seed).save_pretrained(path)
        byte_tokenizer().save_pretrained(path)
    checkpoint, file = tmp_path / "in", tmp_path / "lens.safetensors"
    write_checkpoint(whole_lens(MODEL, first=0), checkpoint, MODEL)

    def run(*arguments: object) -> Any:
        return unsway("lens", *map(str, arguments), main=steering.cli.main)

    told = run("import", checkpoint, "--model", folder, "--out", file)
    assert (told.code, told.err) == (0, "") and f"4 layers, from a tuned-lens checkpoint for {MODEL.name}" in told.out
    assert run("export", file, "--model", folder, "--out", tmp_path / "back").code == 0
    assert same(read_checkpoint(tmp_path / "back", MODEL), whole_lens(MODEL, first=0))
    run("import", checkpoint, "--model", other, "--out", file).refuses("whose unembedding", "--any-unembedding")
    assert run("import", checkpoint, "--model", other, "--out", tmp_path / "o", "--any-unembedding").code == 0
    run("export", file, "--model", other, "--out", tmp_path / "x").refuses("belongs to model", "not to other")
    run("import", tmp_path / "none", "--model", folder, "--out", file).refuses("config.json cannot be read")
    assert load_lens(file, MODEL).model_name == "model" and not (tmp_path / "x").exists()
    save_lens(whole_lens(MODEL), file)
    assert run("export", file, "--model", folder, "--out", tmp_path / "back").code == 0
