"""Which configs of Hugging Face models we serve, and why not the others: decided before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steering.errors import UnsupportedModel

Config = Mapping[str, Any]
"""A config.json, or `to_dict()` of a config object."""

SUPPORTED = {
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
"""config.model_type -> architecture class served. A new family is a line here plus its equality tests."""

_FOREIGN = {
    "a vision or audio part": ("vision_config", "audio_config", "text_config", "mm_vision_tower", "mrope_section"),
    "latent attention (MLA), which has no keys and values per head group": ("kv_lora_rank",),
    "layers without attention (SSM, linear attention or convolution)": (
        "state_size",
        "ssm_state_size",
        "ssm_cfg",
        "mamba_d_state",
        "linear_num_value_heads",
        "lru_width",
        "conv_L_cache",
        "rescale_every",
    ),
    "an encoder": ("is_encoder_decoder",),
    "attention in chunks": ("attention_chunk_size",),
    "attention in both directions": ("use_bidirectional_attention",),
    "layers without positions": ("no_rope_layers", "no_rope_layer_interval"),
    "attention sinks": ("num_attention_sinks", "attention_sink_size", "add_swa_attention_sink_bias"),
}
"""What no family served here has -> fields that switch it on where they hold anything but null, false, 0 or nothing."""

_BY_NAME = {"gpt_oss": "attention sinks", "llama4_text": "attention in chunks", "qwen2_vl_text": "a vision part"}
"""Model types whose configs do not show why."""

_PER_LAYER = frozenset({"gemma2", "gemma3_text", "qwen2", "qwen3"})
"""Families whose code reads `layer_types`; the others have one window, or none, for all layers."""

_ROPE_TYPES = frozenset({"default", "linear", "dynamic", "yarn", "llama3", "longrope"})


def check_supported(config: Config) -> None:
    """Raises `UnsupportedModel`, one line, for whatever could only be served wrong."""
    model_type = config.get("model_type")
    known = f"supported are: {', '.join(sorted(SUPPORTED))}."
    if not isinstance(model_type, str) or model_type not in SUPPORTED:
        reason = next(_foreign_parts(config), None) or _BY_NAME.get(str(model_type))
        because = f" (it has {reason})" if reason else ""
        raise UnsupportedModel(f"model type {model_type!r} is not supported{because}; {known}")
    for refusal in _refusals(config, model_type):
        raise UnsupportedModel(f"model type {model_type!r} {refusal}; {known}")


def _foreign_parts(config: Config) -> Iterator[str]:
    for what, fields in _FOREIGN.items():
        if named := [field for field in fields if config.get(field)]:
            yield f"{what}: {named[0]}"
    for kind in _layer_types(config) - {"full_attention", "sliding_attention"}:
        yield f"layers of type {kind!r}"


def _refusals(config: Config, model_type: str) -> Iterator[str]:
    """What of a supported family we do not serve. Fields that its own code in transformers passes over are refused
    too: the model was made with them, so that code computes another one."""
    for part in _foreign_parts(config):
        yield f"with {part} is not supported"
    architectures = config.get("architectures") or [SUPPORTED[model_type]]
    if SUPPORTED[model_type].lower() not in [str(name).lower() for name in architectures]:
        yield f"is served as {SUPPORTED[model_type]}, not as {architectures[0]}"
    if config.get("attn_logit_softcapping") is not None and model_type != "gemma2":
        yield "with attn_logit_softcapping is not supported"
    if config.get("final_logit_softcapping") is not None and model_type not in {"gemma2", "gemma3_text"}:
        yield "with final_logit_softcapping is not supported"
    yield from _window_refusals(config, model_type)
    yield from _rope_refusals(config, model_type)


def _layer_types(config: Config) -> set[str]:
    return {str(kind) for kind in config.get("layer_types") or ()}


def _window_refusals(config: Config, model_type: str) -> Iterator[str]:
    window = None if config.get("use_sliding_window") is False else config.get("sliding_window")
    kinds = _layer_types(config)
    if model_type == "llama" and window is not None:
        yield "with sliding_window is not supported"
    if model_type not in _PER_LAYER and len(kinds) > 1:
        yield "with layers of different layer_types is not supported"
    if "sliding_attention" in kinds and "sliding_window" in config and not window:
        yield "with layers of type 'sliding_attention' needs a sliding_window"
    if kinds == {"full_attention"} and model_type not in _PER_LAYER and window:
        yield "with a sliding_window needs layers of type 'sliding_attention'"


def _rope_refusals(config: Config, model_type: str) -> Iterator[str]:
    allowed = _ROPE_TYPES | ({"su"} if model_type == "phi3" else set())  # an older name of longrope
    for rope in rope_parameters(config):
        if rope.get("mrope_section"):
            yield "with mrope_section is not supported"
        if (kind := rope.get("rope_type") or rope.get("type") or "default") not in allowed:
            yield f"with rope type {kind!r} is not supported (served: {', '.join(sorted(_ROPE_TYPES))})"
        partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
        if partial not in (None, 1, 1.0) and model_type != "phi3":
            yield "with partial_rotary_factor is not supported"


def rope_parameters(config: Config) -> list[Config]:
    """The RoPE settings of a config, old spelling or new: one dict, or one for each layer type (Gemma-3)."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        return []
    nested = [part for part in rope.values() if isinstance(part, Mapping)]
    return nested or [rope]
