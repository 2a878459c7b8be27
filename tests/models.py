"""Tiny random models and a byte-level tokenizer: the whole suite runs on CPU, offline, in seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from steering.model.loading import LanguageModel, wrap

VOCAB_SIZE = 384
SPECIAL_TOKENS = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = """{{- bos_token }}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{%- for message in turns %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {{- '<|' + message.role + '|>' + message.content + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""

CORPUS = (
    "What is the capital of France? The answer is Paris. I think it is Lyon. Are you sure? You are right. "
    "Ünïcödé façade, naïve café; 東京は日本の首都です。東京。 Москва — столица. 👩‍👩‍👧 👍🏽 👩‍👩‍👧 👍🏽 🎉🎉🎉 "
)


@cache
def byte_tokenizer(corpus: str = CORPUS, vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """Byte-level BPE; some tokens end inside a character. Its encoder adds `<|begin|>`, as Llama-3's."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([corpus] * 4, trainer)
    begin = core.token_to_id("<|begin|>")
    core.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", begin)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


FAMILY_FIELDS: dict[str, dict[str, object]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {
        "sliding_window": 16,
        "query_pre_attn_scalar": 2,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "tie_word_embeddings": True,
    },
    "gemma3_text": {
        "sliding_window": 16,
        "query_pre_attn_scalar": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
        "tie_word_embeddings": True,
    },
    "mistral": {"sliding_window": 24},
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "qwen3_moe": {
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "mlp_only_layers": [1],
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64},
}
"""model type -> what makes a tiny model of that family behave like its kind: windows, caps and RoPE bases that bite."""


def tiny_hf(family: str = "llama", seed: int = 0, **config: object) -> PreTrainedModel:
    """4 layers, D 64, F 128, H 8, G 2, K 8, V 384, context 512; `config` overrides fields of the config."""
    fields: dict[str, object] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    if family not in {"qwen2", "phi3"}:  # these have no such field: always D / H
        fields["head_dim"] = 8
    hf = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(fields | FAMILY_FIELDS[family] | config)))
    _sharpen(hf.eval(), seed)
    return hf


def tiny_model(family: str = "llama", seed: int = 0, **config: object) -> LanguageModel:
    return wrap(tiny_hf(family, seed, **config), byte_tokenizer(), f"tiny-{family}-{seed}")


def endless_model(family: str = "llama", seed: int = 0, **config: object) -> LanguageModel:
    """Without stop ids, so that every answer has the length asked for."""
    return replace(tiny_model(family, seed, **config), stop_ids=frozenset())


@torch.no_grad()
def _sharpen(hf: PreTrainedModel, seed: int) -> None:
    """Embeddings ~ N(0, 1), other matrices ~ N(0, 1 / fan_in): HF's small init decodes one token forever.

    So does a tied model whose residual is mostly its last token: there embeddings enter smaller. What HF starts at
    zero (biases, Gemma's norms) gets values, or nobody would see it missing.
    """
    generator, embedding = torch.Generator().manual_seed(seed), hf.get_input_embeddings()
    embed_scale = getattr(embedding, "scalar_embed_scale", 1.0)
    entering = (0.2 if embed_scale > 1 else 0.05) if hf.config.tie_word_embeddings else 1.0
    for name, weight in sorted(hf.named_parameters()):
        if weight.ndim > 1:
            scale = entering / embed_scale if weight is embedding.weight else weight.shape[-1] ** -0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
        elif not weight.any():
            center = {"model.norm.weight": 5.0}.get(name, 1.0 if name.endswith("norm.weight") else 0.0)
            weight.copy_(center + 0.3 * torch.randn(weight.shape, generator=generator))


@cache
def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Built like Llama-2's: `▁` for spaces, one added before the text, `<0xNN>` for bytes it has no piece for."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.train_from_iterator(CORPUS.split("; ")[:1], trainers.BpeTrainer(vocab_size=120, show_progress=False))
    trained = json.loads(core.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *trained["vocab"]]
    core.model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)},
        [(left, right) for left, right in trained["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = CHAT_TEMPLATE.replace("'<|' + message.role + '|>'", "'[' + message.role + '] '")
    return tokenizer
