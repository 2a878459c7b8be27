"""Checkpoint: the tensors of a folder as they are stored, before any conversion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from steering.errors import UnsupportedModel

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """Name -> tensor, mapped from the files: only what is read of it comes into memory."""
    if (folder / WEIGHTS).is_file():
        files = {WEIGHTS}
    else:
        files = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    tensors: dict[str, Tensor] = {}
    for file in sorted(files):
        with safe_open(folder / file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  it is no dict
    return tensors


def named(tensors: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Those of a model's parameters; raises `UnsupportedModel` where loading renames or merges them."""
    if missing := [name for name in names if name not in tensors]:
        raise UnsupportedModel(f"cannot be quantised on load: {missing[0]} is not stored under this name.")
    return {name: tensors[name] for name in names}
