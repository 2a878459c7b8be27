"""Tokenizers in the shape of those that families ship: normaliser, splits, decoder, control tokens, template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.models import CORPUS

_ALTERNATE = """{%- for message in messages %}{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}{%- endfor %}"""
GEMMA_TEMPLATE = (
    "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}"
    "{%- endif %}"
    + _ALTERNATE
    + """{%- for message in messages %}{%- set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' + role + '\n' + message.content | trim + '<end_of_turn>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"""
)
MISTRAL_TEMPLATE = (
    "{{- bos_token }}"
    + _ALTERNATE
    + """{%- for message in messages %}
{{- '[INST] ' + message.content + '[/INST]' if message.role == 'user' else ' ' + message.content + eos_token }}
{%- endfor %}"""
)
PHI3_TEMPLATE = """{%- for message in messages %}{{- '<|' + message.role + '|>\n' + message.content + '<|end|>\n' }}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}"""
QWEN_TEMPLATE = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def gemma() -> PreTrainedTokenizerFast:
    """No space before the text, none dropped in decoding. Runs of white space and HTML tags are added tokens too."""
    plain = [AddedToken(text, normalized=False) for text in ("\n\n", "\n\n\n", "▁▁", "▁▁▁", "<b>", "</b>")]
    controls = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    core = _sentencepiece(controls, extra=[token.content for token in plain])
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_tokens(plain)
    return _wrapped(core, controls, GEMMA_TEMPLATE, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")


@cache
def mistral() -> PreTrainedTokenizerFast:
    """SentencePiece of Mistral 7B v0.3: a space before the first text only, control tokens `[INST]`."""
    controls = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    core = _sentencepiece(controls)
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = _strip_one_space()
    return _wrapped(core, controls, MISTRAL_TEMPLATE, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def phi3() -> PreTrainedTokenizerFast:
    """The older shape, by normaliser: a space before every stretch of text; control tokens swallow what follows."""
    controls = ["<unk>", "<s>", "</s>"]
    core = _sentencepiece(controls)
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = _strip_one_space()
    turns = ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    core.add_special_tokens([AddedToken(text, rstrip=True, normalized=False, special=True) for text in turns])
    return _wrapped(core, controls, PHI3_TEMPLATE, bos_token="<s>", eos_token="<|endoftext|>", unk_token="<unk>")


@cache
def tekken() -> PreTrainedTokenizerFast:
    """Byte-level, as Mistral's later models: control tokens are in the vocabulary; a word that is one has its id."""
    controls = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    core = _byte_level(models.BPE(ignore_merges=True), TEKKEN_SPLIT, controls)
    return _wrapped(core, controls, MISTRAL_TEMPLATE, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def qwen() -> PreTrainedTokenizerFast:
    """Byte-level of composed characters (NFC); the control tokens stand behind the vocabulary."""
    core = _byte_level(models.BPE(), QWEN_SPLIT, [])
    core.normalizer = normalizers.NFC()
    controls = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return _wrapped(core, controls, QWEN_TEMPLATE, eos_token="<|im_end|>", pad_token="<|endoftext|>")


TOKENIZERS = {"gemma": gemma, "mistral": mistral, "phi3": phi3, "tekken": tekken, "qwen": qwen}


def _byte_level(model: models.BPE, split: str, controls: Sequence[str]) -> Tokenizer:
    core = Tokenizer(model)
    words = pre_tokenizers.Split(Regex(split), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=370, special_tokens=list(controls), initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([CORPUS] * 4, trainer)
    return core


def _sentencepiece(controls: Sequence[str], extra: Sequence[str] = ()) -> Tokenizer:
    """Byte-fallback BPE over controls, bytes, `extra` and what a small training finds; nothing around it yet."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    core.train_from_iterator(CORPUS.split("; ")[:1], trainers.BpeTrainer(vocab_size=100, show_progress=False))
    trained = json.loads(core.to_str())["model"]
    pieces = [*controls, *(f"<0x{byte:02X}>" for byte in range(256)), *extra]
    pieces += [piece for piece in trained["vocab"] if piece not in pieces]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [(left, right) for left, right in trained["merges"]]
    return Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))


def _strip_one_space() -> decoders.Decoder:
    stages = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return decoders.Sequence(stages)


def _wrapped(core: Tokenizer, controls: Sequence[str], template: str, **named: str) -> PreTrainedTokenizerFast:
    core.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in controls])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = template
    return tokenizer
