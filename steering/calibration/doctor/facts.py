"""Facts: what a model is, as far as serving and steering it are concerned."""

from __future__ import annotations

from typing import Any

from steering.model.loading import LanguageModel
from steering.model.vocabulary import vocabulary_of


def facts(model: LanguageModel) -> dict[str, Any]:
    """Name -> value, JSON types only."""
    layout, config = model.layout, model.hf.config
    return {
        "family": config.model_type,
        "parameters": model.hf.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantized": model.quantized,
        "devices": sorted({str(device) for device in layout.devices}),
        "layers": layout.num_layers,
        "d_model": layout.d_model,
        "heads": layout.num_heads,
        "kv_groups": layout.num_groups,
        "head_dim": layout.head_dim,
        "d_mlp": layout.d_mlp,
        "vocabulary": layout.vocab_size,
        "context": layout.context,
        "sliding_window": sliding_window(model),
        "tokenizer": "byte-level BPE" if vocabulary_of(model.tokenizer).byte_level else "SentencePiece, byte fallback",
        "chat_template": bool(model.tokenizer.chat_template),
        "kv_bytes_per_token": layout.kv_bytes_per_token(model.dtype),
        "sites": _sites(model),
        "stop_ids": sorted(model.stop_ids),
        "fingerprint": model.fingerprint,
    }


def sliding_window(model: LanguageModel) -> int | None:
    """Positions that the model's windowed layers look back; None where there are none."""
    config = model.hf.config
    kinds = getattr(config, "layer_types", None)
    window: int | None = getattr(config, "sliding_window", None)
    return window if kinds is None or "sliding_attention" in kinds else None


def _sites(model: LanguageModel) -> dict[str, list[int]]:
    """Component -> the blocks where it can be corrected."""
    layers = range(model.layout.num_layers)
    with_mlp = [layer for layer in layers if model.layout.mlp_outputs[layer] is not None]
    return {"resid_post": list(layers), "attn_z": list(layers), "mlp_act": with_mlp}
