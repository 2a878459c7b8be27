"""Tiny random models and a byte-level tokenizer: the whole suite runs on CPU, offline, in seconds."""

from __future__ import annotations

import json
from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

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

_CORPUS = (
    "What is the capital of France? The answer is Paris. I think it is Lyon. Are you sure? You are right. "
    "Ünïcödé façade, naïve café; 東京は日本の首都です。東京。 Москва — столица. 👩‍👩‍👧 👍🏽 👩‍👩‍👧 👍🏽 🎉🎉🎉 "
)


@cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 384 tokens; some end inside a character. Its encoder adds `<|begin|>`, as Llama-3's."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([_CORPUS] * 4, trainer)
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


def tiny_hf(family: str = "llama", seed: int = 0, **config: object) -> PreTrainedModel:
    """4 layers, D 64, F 128, H 8, G 2, K 8, V 384, context 512; `config` overrides fields of the config."""
    fields: dict[str, object] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    makers = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
    config_class, model_class = makers[family]
    hf = model_class(config_class(**(fields | config))).eval()
    _sharpen(hf, seed)
    return hf


def tiny_model(family: str = "llama", seed: int = 0, **config: object) -> LanguageModel:
    return wrap(tiny_hf(family, seed, **config), byte_tokenizer(), f"tiny-{family}-{seed}")


@torch.no_grad()
def _sharpen(hf: PreTrainedModel, seed: int) -> None:
    """Embeddings ~ N(0, 1), other matrices ~ N(0, 1 / fan_in): HF's small init decodes one token forever."""
    generator = torch.Generator().manual_seed(seed)
    embedding = hf.get_input_embeddings().weight
    for _, weight in sorted(hf.named_parameters()):
        if weight.ndim == 2:
            scale = 1.0 if weight is embedding else weight.shape[1] ** -0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)


@cache
def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Built like Llama-2's: `▁` for spaces, one added before the text, `<0xNN>` for bytes it has no piece for."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.train_from_iterator(_CORPUS.split("; ")[:1], trainers.BpeTrainer(vocab_size=120, show_progress=False))
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
