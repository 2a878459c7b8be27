"""A tuned lens of all layers in one file: once per model, beside the packs, each of which carries the layer it reads.

safetensors with a passport; tensors are named as in tuned-lens, `3.weight` [D, D] and `3.bias` [D] for lens layer 3.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steering.durable import replacing
from steering.errors import LensError
from steering.lens import TunedLens
from steering.model.loading import LanguageModel
from steering.strict_json import strict_loads

FORMAT = "unsway.lens/1"

_NAME = re.compile(r"(0|[1-9][0-9]{0,3})\.(weight|bias)")
_FIELDS = ("format", "model", "fingerprint", "origin", "digest")


@dataclass(frozen=True, eq=False)
class WholeLens:
    """Tuned lenses of one model, at layers 1 .. L-1 at least."""

    lenses: Mapping[int, TunedLens]
    """Lens layer -> lens; 0, the embeddings, may be there."""
    model_name: str
    """For people. What counts is the fingerprint."""
    fingerprint: str
    origin: str
    """What it was fitted on, or where it comes from: a line for people."""

    @property
    def file_name(self) -> str:
        return f"lens-{self.fingerprint.removeprefix('sha256:')[:12]}.safetensors"

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU, by name."""
        weights = {f"{layer}.weight": lens.weight for layer, lens in self.lenses.items()}
        biases = {f"{layer}.bias": lens.bias for layer, lens in self.lenses.items()}
        return {name: t.detach().cpu().contiguous().clone() for name, t in sorted((weights | biases).items())}

    def on(self, model: LanguageModel) -> dict[int, TunedLens]:
        """Layers 1 .. L-1 in the model's type and on its device. Raises `LensError` where they do not fit the type."""
        lenses = {}
        for layer in range(1, model.layout.num_layers):
            weight, bias = (
                t.to(model.device, model.dtype) for t in (self.lenses[layer].weight, self.lenses[layer].bias)
            )
            if not bool(weight.isfinite().all() and bias.isfinite().all()):
                raise LensError(f"the lens at layer {layer} holds values that are not finite in {model.dtype}.")
            lenses[layer] = TunedLens(layer, weight, bias)
        return lenses


def save_lens(whole: WholeLens, path: Path) -> None:
    """Writes or replaces the file as a whole."""
    tensors = whole.tensors
    passport = {
        "format": FORMAT,
        "model": whole.model_name,
        "fingerprint": whole.fingerprint,
        "origin": whole.origin,
    }
    passport["digest"] = _digest(passport, tensors)
    with replacing(path) as new:
        safetensors.torch.save_file(tensors, new, metadata={"passport": json.dumps(passport)})


def load_lens(path: Path, model: LanguageModel) -> WholeLens:
    """As it was stored, on the CPU. Raises `LensError`, for another model's too."""
    try:
        with safe_open(path, "pt") as file:
            passport = _passport(path, file.metadata() or {})
            _check_fingerprint(path, passport, model)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        raise LensError(f"{path} cannot be read: {error}.") from error
    if _digest(passport, tensors) != passport["digest"]:
        raise LensError(f"{path} does not match its digest: it was damaged or edited.")
    lenses = lenses_of(tensors, model, str(path))
    return WholeLens(lenses, passport["model"], passport["fingerprint"], passport["origin"])


def lenses_of(tensors: Mapping[str, Tensor], model: LanguageModel, where: str) -> dict[int, TunedLens]:
    """Lens layer -> lens, checked: names, layers, shapes, finite numbers. Raises `LensError`."""
    L, D = model.layout.num_layers, model.layout.d_model
    if strange := next((name for name in tensors if not _NAME.fullmatch(name)), None):
        raise LensError(f"{where}: {strange[:40]!r} is no tensor of a lens; they are named like 3.weight and 3.bias.")
    layers = sorted({int(name.partition(".")[0]) for name in tensors})
    if layers not in (list(range(L)), list(range(1, L))):
        got = f"{layers[0]} to {layers[-1]}, {len(layers)} of them" if layers else "none"
        raise LensError(f"{where}: {model.name} has {L} layers, a lens of it 0 to {L - 1} or 1 to {L - 1}; got {got}.")
    return {
        layer: TunedLens(
            layer,
            _checked(tensors, f"{layer}.weight", (D, D), model, where),
            _checked(tensors, f"{layer}.bias", (D,), model, where),
        )
        for layer in layers
    }


def _checked(
    tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], model: LanguageModel, where: str
) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise LensError(f"{where}: tensor {name} is missing.")
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        got = f"{list(tensor.shape)} of {tensor.dtype}"
        raise LensError(f"{where}: tensor {name} must be {list(shape)} of floating point for {model.name}, got {got}.")
    if not bool(tensor.isfinite().all()):
        raise LensError(f"{where}: tensor {name} holds values that are not finite.")
    return tensor.detach()


def _passport(path: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    try:
        passport: Any = strict_loads(metadata.get("passport", "null"))
    except (ValueError, RecursionError) as error:
        raise LensError(f"{path}: its passport is not valid JSON.") from error
    if not isinstance(passport, dict) or passport.get("format") != FORMAT:
        raise LensError(f"{path} is no stored lens of the form {FORMAT}.")
    if passport.keys() != set(_FIELDS) or not all(isinstance(value, str) for value in passport.values()):
        raise LensError(f"{path}: a passport has the texts {', '.join(_FIELDS)}.")
    return passport


def _check_fingerprint(path: Path, passport: Mapping[str, str], model: LanguageModel) -> None:
    if passport["fingerprint"] != model.fingerprint:
        raise LensError(
            f"{path} belongs to {passport['model'][:80]} ({passport['fingerprint'][:19]}), "
            f"not to {model.name} ({model.fingerprint[:19]})."
        )


def _digest(passport: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Of all there is in the file but the digest itself."""
    stated = {key: value for key, value in passport.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
