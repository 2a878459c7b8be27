"""SAE: what it encodes against a slow path, and the files of others against what they say and what is wrong in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from steering.calibration.read_sae import WEIGHTS, read_sae
from steering.calibration.sae import SparseAutoencoder
from steering.errors import DataError

F, Z = 6, 10
NOISE = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=NOISE)


W = {"W_enc": normal(F, Z), "b_enc": normal(Z), "W_dec": normal(Z, F), "b_dec": normal(F)}
THRESHOLD = torch.rand(Z, generator=NOISE)
X = normal(50, F)


def by_hand(
    x: Tensor, *, subtract: bool, threshold: Tensor | None = None, k: int | None = None
) -> tuple[Tensor, Tensor]:
    """Row by row, feature by feature: (features, reconstruction)."""
    features = torch.zeros(len(x), Z)
    for n in range(len(x)):
        before = [
            float(
                sum((x[n, i] - (W["b_dec"][i] if subtract else 0)) * W["W_enc"][i, j] for i in range(F)) + W["b_enc"][j]
            )
            for j in range(Z)
        ]
        kept = sorted(range(Z), key=before.__getitem__, reverse=True)[: k or Z]
        for j in kept:
            if before[j] > (0.0 if threshold is None else float(threshold[j])):
                features[n, j] = before[j]
    return features, features @ W["W_dec"] + W["b_dec"]


def check(sae: SparseAutoencoder, features: Tensor, restored: Tensor) -> None:
    assert 0 < int((features > 0).sum()) < features.numel()
    torch.testing.assert_close(sae.encode(X), features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae.decode(sae.encode(X)), restored, rtol=1e-4, atol=1e-4)


def gemma_scope(path: Path, lower: bool = False, **changed: Any) -> Path:
    arrays = {name: tensor.numpy() for name, tensor in (W | {"threshold": THRESHOLD}).items()} | changed
    arrays = {name.lower() if lower else name: array for name, array in arrays.items() if array is not None}
    np.savez(path / "params.npz", **arrays)
    return path / "params.npz"


def sae_lens(folder: Path, tensors: dict[str, Tensor] | None = None, **config: Any) -> Path:
    fields = {"architecture": "standard", "d_in": F, "d_sae": Z, "apply_b_dec_to_input": True} | config
    (folder / "cfg.json").write_text(json.dumps(fields))
    safetensors.torch.save_file(W if tensors is None else tensors, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize("lower", [False, True])
def test_gemma_scope(tmp_path: Path, lower: bool) -> None:
    sae = read_sae(gemma_scope(tmp_path, lower))
    assert (sae.width, sae.num_features, sae.k) == (F, Z, None)
    check(sae, *by_hand(X, subtract=False, threshold=THRESHOLD))


@pytest.mark.parametrize("subtract", [False, True])
def test_sae_lens_standard(tmp_path: Path, subtract: bool) -> None:
    sae = read_sae(sae_lens(tmp_path, apply_b_dec_to_input=subtract))
    check(sae, *by_hand(X, subtract=subtract))


def test_sae_lens_jumprelu_a_negative_threshold_is_none(tmp_path: Path) -> None:
    threshold = THRESHOLD - 0.3
    assert threshold.min() < 0
    sae = read_sae(sae_lens(tmp_path, W | {"threshold": threshold}, architecture="jumprelu"))
    check(sae, *by_hand(X, subtract=True, threshold=threshold.relu()))


@pytest.mark.parametrize("old", [False, True])
def test_sae_lens_top_k(tmp_path: Path, old: bool) -> None:
    named: dict[str, Any] = {"architecture": "topk", "k": 3}
    if old:
        named = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}
    check(read_sae(sae_lens(tmp_path, **named)), *by_hand(X, subtract=True, k=3))


def test_sae_lens_rescaled_by_decoder_norms_chooses_by_them(tmp_path: Path) -> None:
    sae = read_sae(sae_lens(tmp_path, architecture="topk", k=3, rescale_acts_by_decoder_norm=True))
    norms = W["W_dec"].norm(dim=1)
    before = ((X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]) * norms
    largest = before.topk(3)
    features = torch.zeros(len(X), Z).scatter(1, largest.indices, largest.values.relu())
    check(sae, features, (features / norms) @ W["W_dec"] + W["b_dec"])
    plain, _ = by_hand(X, subtract=True, k=3)
    assert not torch.equal(plain > 0, features > 0), "norms change what is chosen"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"W_enc": None}, "w_enc missing"),
        ({"threshold": None}, "threshold missing"),
        ({"W_dec": np.zeros((F, Z), np.float32)}, r"w_dec must be \[10, 6\], got \[6, 10\]"),
        ({"W_enc": np.zeros(F, np.float32)}, r"w_enc must be \[F, Z\]"),
        ({"b_enc": np.zeros(Z, np.int64)}, "b_enc must hold finite floating-point"),
    ],
)
def test_T9_weights_of_a_wrong_shape_or_type(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_sae(gemma_scope(tmp_path, **changed))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_T10_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    with pytest.raises(DataError, match="b_dec must hold finite"):
        read_sae(gemma_scope(tmp_path, b_dec=np.full(F, value, np.float32)))


def test_T11_truncated_files(tmp_path: Path) -> None:
    path = gemma_scope(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="expected a params"):
        read_sae(path)
    folder = sae_lens(tmp_path)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:200])
    with pytest.raises(DataError, match="expected a safetensors file"):
        read_sae(folder)


class Canary:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("canary"),)


def test_T14_arrays_of_objects_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = gemma_scope(tmp_path, b_enc=np.array([Canary()], dtype=object))
    with pytest.raises(DataError, match="plain arrays"):
        read_sae(path)
    assert not Path("canary").exists()
    with np.load(path, allow_pickle=True) as archive:
        archive["b_enc"]
    assert Path("canary").exists(), "the file would have done it"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none"):
        read_sae(tmp_path / "none.npz")
    with pytest.raises(DataError, match="cfg"):
        read_sae(tmp_path)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architecture": "gated"}, "one of standard, topk, jumprelu; got 'gated'"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations must be 'none', got 'layer_norm'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations must be 'none'"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor must be False"),
        ({"architecture": "topk"}, "k must be a whole number of at least 1, got None"),
        ({"architecture": "topk", "k": True}, "k must be"),
        ({"architecture": "jumprelu"}, "threshold missing"),
    ],
)
def test_settings_under_which_the_weights_mean_something_else(
    tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        read_sae(sae_lens(tmp_path, **config))


@pytest.mark.parametrize("text", ["[]", "{", "3"])
def test_a_config_that_is_no_object(tmp_path: Path, text: str) -> None:
    folder = sae_lens(tmp_path)
    (folder / "cfg.json").write_text(text)
    with pytest.raises(DataError, match="expected a JSON object"):
        read_sae(folder)
