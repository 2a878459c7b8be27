"""Fingerprint of a model: what a pack was calibrated on, and what it must be served with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

_FIELDS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "hidden_act",
    "rms_norm_eps",
    "sliding_window",
)
_ROPE_FIELDS = (
    "rope_type",
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
)
_FAMILY_FIELDS = (
    "hidden_activation",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "layer_types",
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
)
"""What some families have besides; named in a fingerprint only where set, so that the others' stay what they were."""
_FAMILY_ROPE_FIELDS = ("partial_rotary_factor", "short_factor", "long_factor")
_SAMPLES = 1024
_PROBE = """What's the capital of France? It IS Paris; I'm 100% sure (1,234.50 km).

	def f(x):
        return x ** 2  # ok\r\n
Übergröße naïve café cafe\u0301 ﬁ — “quotes” … İstanbul ΑΒΓ Привет, мир! 東京は日本の首都です。한국어 שלום नमस्ते
👩\u200d👩\u200d👧 🎉🎉  x=0x1F;y=[1,2]; ''' <b>https://example.org/a?b=c</b> AAAAAAAAAAAAAAAA aaaa   \n \n"""


def fingerprint(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, weights: Mapping[str, Tensor] | None = None
) -> str:
    """`sha256:<hex>` of architecture, weights and tokenizer. weights: those to name instead of the parameters of `hf`.

    Weights enter by name, shape and at most 1,024 evenly strided values each, rounded to bfloat16: quick on any
    size, and equal for float32 and bfloat16 loads of one checkpoint. Serialised configs and tokenizers do not
    enter: their form changes between library versions, and packs must outlive upgrades.
    A model quantised on load is its checkpoint, and takes packs made for it; a checkpoint that is stored quantised
    is another model, named by what it stores.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([_architecture(hf.config), _tokenizer_digest(tokenizer)]).encode())
    parameters = sorted((weights or dict(hf.named_parameters())).items())
    digest.update(json.dumps([[name, list(weight.shape)] for name, weight in parameters]).encode())
    samples = torch.cat([_samples(weight) for _, weight in parameters])
    digest.update(samples.view(torch.int16).numpy().astype("<i2").tobytes())
    return f"sha256:{digest.hexdigest()}"


def _samples(weight: Tensor) -> Tensor:
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, -(-flat.numel() // _SAMPLES))].to("cpu", torch.bfloat16)


def _architecture(config: Any) -> list[tuple[str, object]]:
    rope = getattr(config, "rope_parameters", None) or {}
    fields: list[tuple[str, object]] = [(name, getattr(config, name, None)) for name in _FIELDS]
    fields += [(name, rope.get(name)) for name in _ROPE_FIELDS]
    return fields + list(_family_fields(config, rope))


def _family_fields(config: Any, rope: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name in _FAMILY_FIELDS:
        value = getattr(config, name, None)
        if value not in (None, [], ["full_attention"] * config.num_hidden_layers):
            yield name, value
    for name in _FAMILY_ROPE_FIELDS:
        if (value := rope.get(name)) not in (None, 1.0):
            yield name, value
    for kind, part in sorted(rope.items()):
        if isinstance(part, Mapping):  # each layer type has its own
            yield from ((f"{kind}.{name}", part.get(name)) for name in (*_ROPE_FIELDS, *_FAMILY_ROPE_FIELDS))


def _tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """Vocabulary, added tokens, chat template; normaliser, splits and merges by what they make of a text."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    by_id = [""] * (max(vocabulary.values()) + 1)  # quicker than sorting 150,000 items
    for token, token_id in vocabulary.items():
        by_id[token_id] = token
    added = sorted((i, token.content, token.special) for i, token in tokenizer.added_tokens_decoder.items())
    probe = tokenizer.encode(_PROBE, add_special_tokens=False)
    digest = hashlib.sha256("\0".join(by_id).encode())
    digest.update(json.dumps([added, probe, tokenizer.chat_template]).encode())
    return digest.hexdigest()
