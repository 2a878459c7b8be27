"""Checkpoints of tuned-lens 0.2 (Belrose et al. 2023): a folder of `config.json` and `params.pt`, read and written.

Both sides index alike: translator i reads hidden_states[i], 0 = embeddings, and adds W h + b; the last state has none.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steering.errors import LensError
from steering.lens_file import WholeLens, lenses_of
from steering.model.loading import LanguageModel
from steering.strict_json import strict_loads

CONFIG, PARAMS = "config.json", "params.pt"
LENS_TYPE = "linear_tuned_lens"

_MAX_CONFIG_BYTES = 2**16
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "base_model_name_or_path": str,
    "d_model": int,
    "num_hidden_layers": int,
    "bias": bool,
    "base_model_revision": (str, type(None)),
    "unembed_hash": (str, type(None)),
    "lens_type": str,
}
_REQUIRED = ("base_model_name_or_path", "d_model", "num_hidden_layers")


def read_checkpoint(folder: Path, model: LanguageModel, *, any_unembedding: bool = False) -> WholeLens:
    """The lens in a folder, for the model it was trained on. Raises `LensError`.

    any_unembedding: take it although it names another unembedding than the model's. tuned-lens hashes the numbers as
    they print, which another precision can change.
    """
    config = _config(folder / CONFIG)
    name = config["base_model_name_or_path"]
    for key, ours in (("d_model", model.layout.d_model), ("num_hidden_layers", model.layout.num_layers)):
        if config[key] != ours:
            raise LensError(f"{folder} is a lens of {name}: {key} is {config[key]}, of {model.name} it is {ours}.")
    stated = config.get("unembed_hash")
    if stated and stated != unembedding_hash(model) and not any_unembedding:
        raise LensError(
            f"{folder} is a lens of {name}, whose unembedding is not that of {model.name}. "
            "If it is the same model in another precision, import it with --any-unembedding."
        )
    tensors = _tensors(folder / PARAMS)
    if not config.get("bias", True):
        tensors |= {f"{i}.bias": torch.zeros(config["d_model"]) for i in range(config["num_hidden_layers"])}
    lenses = lenses_of(tensors, model, str(folder / PARAMS))
    if 0 not in lenses:
        raise LensError(f"{folder / PARAMS}: tensor 0.weight is missing.")
    revision = f" at {config['base_model_revision']}" if config.get("base_model_revision") else ""
    return WholeLens(lenses, model.name, model.fingerprint, f"from a tuned-lens checkpoint for {name}{revision}")


def write_checkpoint(whole: WholeLens, folder: Path, model: LanguageModel) -> None:
    """The inverse. Where the embeddings have no lens, theirs is zero: the logit lens."""
    tensors = whole.tensors
    for part in ("weight", "bias"):
        tensors.setdefault(f"0.{part}", torch.zeros_like(tensors[f"1.{part}"]))
    config = {
        "base_model_name_or_path": whole.model_name,
        "d_model": model.layout.d_model,
        "num_hidden_layers": model.layout.num_layers,
        "bias": True,
        "base_model_revision": None,
        "unembed_hash": unembedding_hash(model),
        "lens_type": LENS_TYPE,
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / PARAMS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def unembedding_hash(model: LanguageModel) -> str:
    """As tuned-lens names an unembedding: sha256 of its numbers, one decimal each, as numpy prints a large matrix."""
    weight = model.layout.unembed.lm_head.weight.detach().cpu().float().numpy()
    return hashlib.sha256(np.array_str(weight, precision=1).encode()).hexdigest()


def _config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            config: Any = strict_loads(file.read(_MAX_CONFIG_BYTES))
    except OSError as error:
        raise LensError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise LensError(f"{path} is not valid JSON.") from error
    if not isinstance(config, dict):
        raise LensError(f"{path} must be an object.")
    for key in sorted({*config} - {*_TYPES} | {*_REQUIRED} - {*config}):
        raise LensError(f"{path}: {key[:40]!r} is {'no key of tuned-lens 0.2' if key in config else 'missing'}.")
    for key, value in config.items():
        if not isinstance(value, _TYPES[key]) or (isinstance(value, bool) and _TYPES[key] is not bool):
            raise LensError(f"{path}: {key} has the wrong type ({type(value).__name__}).")
    if (kind := config.get("lens_type", LENS_TYPE)) != LENS_TYPE:
        raise LensError(f"{path}: lens_type must be {LENS_TYPE!r}, got {kind[:40]!r}.")
    return config


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise LensError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise LensError(f"{path} is damaged, or holds more than tensors.") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise LensError(f"{path} must hold tensors by name.")
    return dict(state)
