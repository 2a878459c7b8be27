"""Stored lenses: what is saved comes back; what is damaged, incomplete or another model's is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from steering.errors import LensError
from steering.lens_file import FORMAT, WholeLens, _digest, load_lens, save_lens
from tests.models import tiny_model
from tests.plans import whole_lens

MODEL = tiny_model()


def same(one: WholeLens, other: WholeLens) -> bool:
    pairs = [(one.lenses[layer], other.lenses[layer]) for layer in one.lenses]
    return one.lenses.keys() == other.lenses.keys() and all(
        a.layer == b.layer and torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias) for a, b in pairs
    )


@pytest.mark.parametrize("first", [0, 1])
def test_what_is_saved_comes_back(tmp_path: Path, first: int) -> None:
    whole = whole_lens(MODEL, first=first)
    path = tmp_path / "new" / whole.file_name
    save_lens(whole, path)
    loaded = load_lens(path, MODEL)
    assert same(whole, loaded) and len(loaded.lenses) == 4 - first
    assert (loaded.model_name, loaded.fingerprint, loaded.origin) == (MODEL.name, MODEL.fingerprint, "noise")
    save_lens(whole_lens(MODEL), path)
    assert sorted(load_lens(path, MODEL).lenses) == [1, 2, 3] and list(path.parent.iterdir()) == [path]
    assert path.name == f"lens-{MODEL.fingerprint[7:19]}.safetensors"


def test_used_lenses_have_the_models_type_and_leave_the_embeddings_out() -> None:
    half = tiny_model()
    half.hf.to(torch.bfloat16)
    whole = whole_lens(half, first=0)
    used = whole.on(half)
    assert list(used) == [1, 2, 3] and {lens.weight.dtype for lens in used.values()} == {torch.bfloat16}
    assert torch.equal(used[2].weight, whole.lenses[2].weight.bfloat16())
    half = replace(half, hf=half.hf.to(torch.float16))
    whole.lenses[2].bias[0] = 1e6
    with pytest.raises(LensError, match=r"layer 2 holds values that are not finite in torch\.float16"):
        whole.on(half)


def test_another_models_lens(tmp_path: Path) -> None:
    save_lens(whole_lens(MODEL), tmp_path / "lens")
    with pytest.raises(LensError, match=r"belongs to tiny-llama-0 \(sha256:.*\), not to tiny-llama-1"):
        load_lens(tmp_path / "lens", tiny_model(seed=1))


def test_every_damaged_byte_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "lens"
    save_lens(whole_lens(MODEL), path)
    raw = path.read_bytes()
    places = [*range(0, 600, 7), *range(600, len(raw), len(raw) // 40)]
    for broken in [*(raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :] for i in places), raw[:-1], raw[:50], b""]:
        path.write_bytes(broken)
        with pytest.raises(LensError):
            load_lens(path, MODEL)
    path.unlink()
    for missing in (path, tmp_path):
        with pytest.raises(LensError, match="cannot be read"):
            load_lens(missing, MODEL)


D = 64
GOOD = {f"{i}.{part}": torch.zeros(shape) for i in (1, 2, 3) for part, shape in (("weight", (D, D)), ("bias", (D,)))}
NAN = torch.zeros(D).index_fill(0, torch.tensor([5]), float("nan"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lens.1": torch.zeros(1)}, "'lens.1' is no tensor of a lens"),
        ({"01.weight": torch.zeros(D, D)}, "'01.weight' is no tensor of a lens"),
        ({"4.weight": torch.zeros(D, D), "4.bias": torch.zeros(D)}, "0 to 3 or 1 to 3; got 1 to 4, 4 of them"),
        ({"2.weight": None, "2.bias": None}, "got 1 to 3, 2 of them"),
        ({"2.bias": None}, "2.bias is missing"),
        ({"3.weight": torch.zeros(D, 32)}, r"3.weight must be \[64, 64\] of .* got \[64, 32\] of torch.float32"),
        ({"1.bias": torch.zeros(D, dtype=torch.int32)}, "1.bias must be .* got .* torch.int32"),
        ({"1.bias": NAN}, "1.bias holds values that are not finite"),
    ],
)
def test_tensors_that_are_no_lens(tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str) -> None:
    tensors = {name: tensor for name, tensor in (GOOD | changes).items() if tensor is not None}
    write(tmp_path / "lens", tensors, {})
    with pytest.raises(LensError, match=message):
        load_lens(tmp_path / "lens", MODEL)


def write(path: Path, tensors: dict[str, torch.Tensor], passport: dict[str, object]) -> None:
    own = {"format": FORMAT, "model": MODEL.name, "fingerprint": MODEL.fingerprint, "origin": "x"}
    whole = {**own, "digest": _digest(own, tensors), **passport}
    safetensors.torch.save_file(tensors, path, metadata={"passport": json.dumps(whole)})


@pytest.mark.parametrize(
    ("passport", "message"),
    [
        ({"format": "unsway.lens/2"}, "no stored lens of the form unsway.lens/1"),
        ({"more": "x"}, "a passport has the texts format, model"),
        ({"origin": 3}, "a passport has the texts format, model"),
        ({"digest": "0" * 64}, "does not match its digest"),
    ],
)
def test_passports_that_are_none(tmp_path: Path, passport: dict[str, object], message: str) -> None:
    write(tmp_path / "lens", GOOD, {})
    assert len(load_lens(tmp_path / "lens", MODEL).lenses) == 3
    write(tmp_path / "lens", GOOD, passport)
    with pytest.raises(LensError, match=message):
        load_lens(tmp_path / "lens", MODEL)


@pytest.mark.parametrize("metadata", [None, {"passport": "{"}, {"passport": "[]"}, {"other": "{}"}])
def test_files_of_others(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    safetensors.torch.save_file(GOOD, tmp_path / "lens", metadata=metadata)
    with safe_open(tmp_path / "lens", "pt") as file:
        assert set(file.keys()) == set(GOOD)
    with pytest.raises(LensError, match=r"passport|no stored lens"):
        load_lens(tmp_path / "lens", MODEL)
