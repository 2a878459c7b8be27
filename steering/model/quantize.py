"""Quantised linears: made on load, or brought by the checkpoint. Embeddings and unembedding never are quantised: the
lens reads rows of the unembedding's weight.

Served are schemes that keep rows apart and activations as they are: weights alone in fewer bits. LLM.int8() is not
among them: it picks outlier columns over all rows of a batch, so a request would change its neighbours' answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from steering.errors import UnsupportedModel

Scheme = Literal["int8", "fp8", "int4"]
"""int8: per output row (torchao); fp8: e4m3 per output row (torchao); int4: NF4 in blocks of 64 (bitsandbytes)."""

_PACKAGES: dict[Scheme, tuple[str, ...]] = {
    "int8": ("torchao", "accelerate"),
    "fp8": ("torchao", "accelerate"),
    "int4": ("bitsandbytes", "accelerate"),
}
_TORCHAO_TYPES: dict[str, Scheme] = {"Int8WeightOnlyConfig": "int8", "Float8WeightOnlyConfig": "fp8"}
_EXPERT_FIELDS = ("num_local_experts", "num_experts")


def quantization_config(scheme: str, dtype: torch.dtype | None) -> Any:
    """What `from_pretrained` takes; dtype: of activations, None for the checkpoint's own. Raises `UnsupportedModel`."""
    match scheme:
        case "int8" | "fp8" | "int4":
            _require(_PACKAGES[scheme], f"quantize {scheme}")
        case _:
            raise UnsupportedModel(f"quantize must be {', '.join(get_args(Scheme))}; got {scheme!r}.")
    if scheme == "int4":
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype or torch.bfloat16
        )
    from torchao import quantization
    from transformers import TorchAoConfig

    make = quantization.Int8WeightOnlyConfig if scheme == "int8" else quantization.Float8WeightOnlyConfig
    return TorchAoConfig(make(set_inductor_config=False))  # else it changes settings of the whole process


def check_quantizable(config: Mapping[str, Any]) -> None:
    """Raises `UnsupportedModel` for a config.json whose model would keep most of its size."""
    if any(config.get(field) for field in _EXPERT_FIELDS):
        raise UnsupportedModel("a mixture of experts cannot be quantised on load: its experts are no linears.")


def stored_scheme(config: Mapping[str, Any]) -> Scheme | None:
    """How the checkpoint of a config.json is quantised; None: not at all. Raises `UnsupportedModel`."""
    stored = config.get("quantization_config")
    if stored is None:
        return None
    if not isinstance(stored, Mapping):
        raise UnsupportedModel("quantization_config is not an object.")
    method = stored.get("quant_method")
    if method == "bitsandbytes" and stored.get("load_in_8bit"):
        raise UnsupportedModel("quantised with LLM.int8(), under which rows of a batch change each other's results.")
    if method == "bitsandbytes" and stored.get("load_in_4bit"):
        scheme: Scheme | None = "int4"
    else:
        scheme = _TORCHAO_TYPES.get(_torchao_type(stored)) if method == "torchao" else None
    if scheme is None:
        kind = f"{method or 'an unnamed method'} {_torchao_type(stored)}".rstrip()
        raise UnsupportedModel(
            f"quantised with {kind}, which is not served (served: bitsandbytes 4-bit, torchao int8 and float8 "
            "weight-only); use the original weights."
        )
    _require(_PACKAGES[scheme], f"a checkpoint quantised with {method}")
    return scheme


def _torchao_type(stored: Mapping[str, Any]) -> str:
    """Class name of the config in it, empty if there is none."""
    quant_type = stored.get("quant_type")
    default = quant_type.get("default") if isinstance(quant_type, Mapping) else None
    return str(default.get("_type", "")) if isinstance(default, Mapping) else ""


def check_quantized(hf: Any) -> None:
    """Raises `UnsupportedModel` where a loaded model cannot be served. It is tried on one token: shapes that a kernel
    does not take raise there (whatever the package raises), and in fp8 rows of zeros become NaN."""
    for what, module in (("embedding", hf.get_input_embeddings()), ("unembedding", hf.get_output_embeddings())):
        if type(module.weight) is not nn.Parameter or not module.weight.is_floating_point():
            raise UnsupportedModel(f"its {what} is quantised; the lens reads rows of it.")

    def finite(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if not bool(output.isfinite().all()):
                raise UnsupportedModel(f"{name} gives NaN (fp8 does that to rows of zeros); quantise to int8.")

        return hook

    linears = [(name, module) for name, module in hf.named_modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_hook(finite(name)) for name, module in linears]
    try:
        with torch.inference_mode():
            hf(torch.zeros(1, 1, dtype=torch.long, device=hf.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def _require(packages: tuple[str, ...], what: str) -> None:
    if missing := [package for package in packages if find_spec(package) is None]:
        names = " and ".join(missing)
        raise UnsupportedModel(f'{what} needs {names}: pip install "unsway[quantize]"')
