"""Which configs are refused, in one line that says why, before a weight is read; and which are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, LlamaForSequenceClassification

from steering.errors import UnsupportedModel
from steering.model.families import SUPPORTED, check_supported
from steering.model.loading import load_model, wrap
from tests.models import FAMILY_FIELDS, byte_tokenizer, tiny_hf

FOREIGN = {
    "deepseek_v2": "latent attention (MLA)",
    "deepseek_v3": "latent attention (MLA)",
    "qwen3_next": "layers without attention",
    "mamba": "layers without attention",
    "mamba2": "layers without attention",
    "jamba": "layers without attention",
    "falcon_h1": "layers without attention",
    "recurrent_gemma": "layers without attention",
    "lfm2": "layers without attention",
    "rwkv": "layers without attention",
    "gemma3": "a vision or audio part",
    "gemma3n": "a vision or audio part",
    "qwen2_vl": "a vision or audio part",
    "llava": "a vision or audio part",
    "llama4": "a vision or audio part",
    "llama4_text": "attention in chunks",
    "gpt_oss": "attention sinks",
    "t5": "an encoder",
    "bart": "an encoder",
    "gpt2": "'gpt2' is not supported; supported are",
    "qwen2_moe": "'qwen2_moe' is not supported; supported are",
    "granite": "'granite' is not supported; supported are",
}


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        check_supported(config)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 320
    assert "gemma2, gemma3_text, llama, mistral, mixtral, phi3, qwen2, qwen3, qwen3_moe" in message, "what does work"
    return message


@pytest.mark.parametrize("model_type", FOREIGN)
def test_L13_other_architectures_are_refused_with_their_reason(model_type: str) -> None:
    message = refusal(json.loads(AutoConfig.for_model(model_type).to_json_string()))
    assert model_type in message
    assert FOREIGN[model_type] in message


@pytest.mark.parametrize("model_type", ["brand_new", None, 7, ["llama"], ""])
def test_L13_unknown_model_types_are_refused(model_type: object) -> None:
    assert "is not supported" in refusal({"model_type": model_type})
    assert "is not supported" in refusal({})


FEATURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "soft-cap that Gemma-3's code passes over": ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_soft"),
    "soft-cap of Llama": ("llama", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping"),
    "final soft-cap of Qwen": ("qwen2", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "both directions": ("gemma3_text", {"use_bidirectional_attention": True}, "attention in both directions"),
    "window of Llama": ("llama", {"sliding_window": 4096}, "sliding_window"),
    "layers of Mistral that differ": (
        "mistral",
        {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 64},
        "layers of different layer_types",
    ),
    "full layers with a window": ("mistral", {"layer_types": ["full_attention"], "sliding_window": 64}, "needs layers"),
    "window without its size": (
        "gemma2",
        {"layer_types": ["sliding_attention"] * 26, "sliding_window": None},
        "needs a sliding_window",
    ),
    "window switched off but asked for": (
        "qwen2",
        {"layer_types": ["sliding_attention"], "use_sliding_window": False, "sliding_window": 64},
        "needs a sliding_window",
    ),
    "chunks": ("llama", {"attention_chunk_size": 8192}, "attention in chunks"),
    "chunked layers": ("qwen3", {"layer_types": ["chunked_attention"]}, "layers of type 'chunked_attention'"),
    "linear layers": ("qwen3", {"layer_types": ["linear_attention"]}, "layers of type 'linear_attention'"),
    "layers without positions": ("llama", {"no_rope_layers": [1, 1, 1, 0]}, "layers without positions"),
    "sinks": ("mistral", {"num_attention_sinks": 4}, "attention sinks"),
    "latent attention": ("llama", {"kv_lora_rank": 512}, "latent attention"),
    "vision": ("llama", {"mm_vision_tower": "clip"}, "a vision or audio part"),
    "unknown rope": ("llama", {"rope_scaling": {"type": "ntk-by-parts", "factor": 2.0}}, "rope type 'ntk-by-parts'"),
    "rope of another family": ("llama", {"rope_parameters": {"rope_type": "proportional"}}, "'proportional'"),
    "rope of images": ("qwen2", {"rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]}}, "mrope_section"),
    "rope of one layer type": (
        "gemma3_text",
        {"rope_parameters": {"full_attention": {"rope_type": "odd"}, "sliding_attention": {"rope_type": "default"}}},
        "rope type 'odd'",
    ),
    "old longrope elsewhere": ("llama", {"rope_scaling": {"type": "su"}}, "rope type 'su'"),
    "partial rotary": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "partial rotary, new spelling": (
        "qwen3",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
        "partial_rotary_factor",
    ),
    "classifier": ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "served as LlamaForCausalLM"),
    "embedder": ("qwen2", {"architectures": ["Qwen2Model"]}, "served as Qwen2ForCausalLM, not as Qwen2Model"),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_L13_features_nobody_computes_are_refused_by_name(feature: str) -> None:
    model_type, fields, expected = FEATURES[feature]
    message = refusal({"model_type": model_type} | fields)
    assert expected in message
    assert f"'{model_type}'" in message


SERVED: dict[str, dict[str, Any]] = {
    **{model_type: AutoConfig.for_model(model_type).to_dict() for model_type in SUPPORTED},
    "biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "Qwen2.5, as on the hub": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "sliding_window": 131072,
        "max_window_layers": 28,
        "use_sliding_window": False,
    },
    "Phi-3.5": {
        "model_type": "phi3",
        "rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]},
    },
    "Phi-4-mini": {"model_type": "phi3", "partial_rotary_factor": 0.75, "tie_word_embeddings": True},
    "Phi-3, first version": {"model_type": "phi3", "rope_scaling": {"type": "su"}, "sliding_window": 262144},
    "Gemma-3, first version": {
        "model_type": "gemma3_text",
        "sliding_window_pattern": 6,
        "sliding_window": 512,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    "Llama-3.1": {"model_type": "llama", "rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "pretraining_tp": 1},
    "Qwen3-MoE": {"model_type": "qwen3_moe", "sliding_window": None, "use_sliding_window": False, "num_experts": 128},
    "Mistral v0.1": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 4096},
    "old spelling": {"architectures": ["LLaMAForCausalLM"], "model_type": "llama"},
    "no rope scaling": {"model_type": "llama", "rope_scaling": None},
}


@pytest.mark.parametrize("name", SERVED)
def test_what_we_serve_is_not_refused(name: str) -> None:
    check_supported(SERVED[name])


@pytest.mark.parametrize("family", FAMILY_FIELDS)
def test_the_configs_of_the_tests_are_not_refused_once_written(family: str) -> None:
    check_supported(json.loads(tiny_hf(family).config.to_json_string()))


def test_L13_a_model_in_memory_is_held_to_the_same() -> None:
    capped = tiny_hf("gemma3_text", attn_logit_softcapping=50.0)
    with pytest.raises(UnsupportedModel, match="attn_logit_softcapping"):
        wrap(capped, byte_tokenizer(), "capped")
    classifier = LlamaForSequenceClassification(tiny_hf().config)
    with pytest.raises(UnsupportedModel, match="served as LlamaForCausalLM, not as LlamaForSequenceClassification"):
        wrap(classifier, byte_tokenizer(), "classifier")


def test_L13_no_weight_of_what_is_refused_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deepseek_v3", "kv_lora_rank": 512}))
    (tmp_path / "model.safetensors").write_bytes(b"never looked at")
    with pytest.raises(UnsupportedModel, match=r"'deepseek_v3' is not supported .*MLA"):
        load_model(str(tmp_path))
