"""Read SAEs that others trained: Gemma Scope's `params.npz`, SAELens' `cfg.json` with `sae_weights.safetensors`.

What they encode must be the input of down_proj, [N, F] (SAELens' hook `mlp.hook_post`). Gemma Scope's `mlp` SAEs read
what an MLP puts out, [N, D]: the width tells, and is checked where an SAE meets a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from steering.calibration.sae import SparseAutoencoder
from steering.errors import DataError

WEIGHTS = "sae_weights.safetensors"
ARCHITECTURES = ("standard", "topk", "jumprelu")
_AS_TRAINED = {
    "normalize_activations": ("none",),
    "reshape_activations": ("none",),
    "finetuning_scaling_factor": (False,),
    "activation_fn": ("relu", "topk"),
    "activation_fn_str": ("relu", "topk"),
}
"""Fields of cfg.json that change what the weights mean, and the values under which they mean what is read here."""


def read_sae(path: Path) -> SparseAutoencoder:
    """A Gemma Scope file (.npz), or a SAELens folder. float32, on the CPU. Raises `DataError`."""
    return _read_sae_lens(path) if path.is_dir() else _read_gemma_scope(path)


def _read_gemma_scope(path: Path) -> SparseAutoencoder:
    """JumpReLU; b_dec is not taken off the input."""
    try:
        # An array of objects would run code. np.load leaves a path that is no archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: torch.from_numpy(np.asarray(archive[name])) for name in archive.files}
    except (OSError, ValueError, TypeError, EOFError, AttributeError, MemoryError, BadZipFile) as error:
        raise DataError(f"expected a params.npz of plain arrays ({error}).", file=str(path)) from error
    weights = {name.lower(): array for name, array in arrays.items()}
    return _checked(weights, path, needs_threshold=True)


def _read_sae_lens(folder: Path) -> SparseAutoencoder:
    config = _config(folder / "cfg.json")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DataError(f"expected a safetensors file ({error}).", file=str(folder / WEIGHTS)) from error
    weights = {name.lower(): tensor for name, tensor in tensors.items()}
    if "log_threshold" in weights:
        weights["threshold"] = weights.pop("log_threshold").exp()
    sae = _checked(weights, folder / WEIGHTS, needs_threshold=config["architecture"] == "jumprelu")
    k = config["k"] if config["architecture"] == "topk" else None
    by_norm = config.get("rescale_acts_by_decoder_norm", False)
    norms = sae.decoder.norm(dim=1) if by_norm else torch.ones(sae.num_features)
    taken_off = sae.decoder_bias if config.get("apply_b_dec_to_input", True) else torch.zeros(sae.width)
    return SparseAutoencoder(
        encoder=sae.encoder * norms,
        encoder_bias=(sae.encoder_bias - taken_off @ sae.encoder) * norms,
        decoder=sae.decoder / norms[:, None],
        decoder_bias=sae.decoder_bias,
        threshold=sae.threshold,
        k=k,
    )


def _config(path: Path) -> dict[str, Any]:
    """cfg.json, checked and with k where it belongs."""
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"expected a JSON object ({error}).", file=str(path)) from error
    if not isinstance(config, dict):
        raise DataError(f"expected a JSON object, got {type(config).__name__}.", file=str(path))
    config.setdefault("architecture", "standard")
    if config["architecture"] not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise DataError(f"architecture must be one of {known}; got {config['architecture']!r}.", file=str(path))
    for field, meant in _AS_TRAINED.items():
        if field in config and config[field] not in (*meant, None):
            raise DataError(f"{field} must be {meant[0]!r}, got {config[field]!r}; fold it first.", file=str(path))
    if "topk" in (config.get("activation_fn"), config.get("activation_fn_str")):
        config["architecture"] = "topk"  # how SAELens named it before version 4
        config.setdefault("k", (config.get("activation_fn_kwargs") or {}).get("k"))
    k = config.get("k")
    if config["architecture"] == "topk" and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
        raise DataError(f"k must be a whole number of at least 1, got {k!r}.", file=str(path))
    return config


def _checked(weights: Mapping[str, Tensor], path: Path, *, needs_threshold: bool) -> SparseAutoencoder:
    """As they stand: b_dec not taken off the input. Raises `DataError` for missing, misshapen and non-finite ones."""
    needed = ["w_enc", "b_enc", "w_dec", "b_dec", *(["threshold"] if needs_threshold else [])]
    if missing := [name for name in needed if name not in weights]:
        raise DataError(f"expected {', '.join(needed)}; {', '.join(missing)} missing.", file=str(path))
    if weights["w_enc"].ndim != 2:
        raise DataError(f"w_enc must be [F, Z], got {list(weights['w_enc'].shape)}.", file=str(path))
    F, Z = weights["w_enc"].shape
    shapes = {"w_enc": [F, Z], "b_enc": [Z], "w_dec": [Z, F], "b_dec": [F], "threshold": [Z]}
    for name in needed:
        tensor = weights[name]
        if list(tensor.shape) != shapes[name]:
            raise DataError(f"{name} must be {shapes[name]}, got {list(tensor.shape)}.", file=str(path))
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise DataError(f"{name} must hold finite floating-point numbers.", file=str(path))
    encoder, encoder_bias, decoder, decoder_bias = (weights[name].float() for name in needed[:4])
    threshold = weights["threshold"].float().relu() if needs_threshold else torch.zeros(Z)
    return SparseAutoencoder(encoder, encoder_bias, decoder, decoder_bias, threshold)
