"""Placement: which devices a model goes to, in which dtype, and whether its linears are quantised on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch

from steering.errors import UnsupportedModel
from steering.model.quantize import check_quantizable, quantization_config, stored_scheme

DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]
"""Accelerate's ways to spread the blocks of a model over the GPUs there are."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """What `load_model` was told, checked."""

    device: torch.device
    """Of the whole model, unless a device map spreads it."""
    dtype: torch.dtype | None
    """Of activations and of weights that are not quantised; None: the checkpoint's own."""
    quantize: str | None
    device_map: str | None

    def options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `from_pretrained` beyond the dtype, for a config.json; empty for plain weights on one device,
        which are moved there once loaded (accelerate is needed for all else)."""
        stored = stored_scheme(config)
        options: dict[str, Any] = {}
        if self.quantize is not None:
            if stored is not None:
                raise UnsupportedModel(f"the checkpoint is quantised already ({stored}); leave quantize out.")
            check_quantizable(config)
            options["quantization_config"] = quantization_config(self.quantize, self.dtype)
        if self.device_map is not None or self.quantize is not None or stored is not None:
            options["device_map"] = self.device_map or {"": self.device}
        return options


def place(device: str, dtype: str, quantize: str | None, device_map: str | None) -> Placement:
    """Raises `UnsupportedModel` for what cannot be, before any file is looked at."""
    target = _device(device)
    if dtype != "auto" and dtype not in DTYPES:
        raise UnsupportedModel(f"dtype must be auto, {', '.join(DTYPES)}; got {dtype!r}.")
    own = torch.float32 if target.type == "cpu" else None
    if device_map is not None:
        _check_device_map(device_map, device)
    return Placement(target, DTYPES.get(dtype, own), quantize, device_map)


def check_offload(hf: Any) -> None:
    """Refuses blocks that a device map left on the CPU or the disk beside a GPU: each step would copy them."""
    places = [str(place) for place in getattr(hf, "hf_device_map", {}).values()]
    away = [place for place in places if place in ("cpu", "disk")]
    if "disk" in away or len(away) not in (0, len(places)):
        parts = f"{len(away)} of its {len(places)} parts would stay on {' and '.join(sorted(set(away)))}"
        raise UnsupportedModel(f"does not fit into the memory of the GPUs: {parts}; quantise it, or use more GPUs.")


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises each of them here
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UnsupportedModel(f"device {device!r} cannot be used: {reason}") from error


def _check_device_map(device_map: str, device: str) -> None:
    if device_map not in get_args(DeviceMap):
        raise UnsupportedModel(f"device_map must be one of {', '.join(get_args(DeviceMap))}; got {device_map!r}.")
    if device != "auto":
        raise UnsupportedModel(f"device_map {device_map} chooses the devices; leave device out (got {device!r}).")
    if find_spec("accelerate") is None:
        raise UnsupportedModel('device_map needs accelerate: pip install "unsway[quantize]"')
