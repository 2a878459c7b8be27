"""Random Llamas of real shapes: speed does not depend on what the weights say."""

from __future__ import annotations

import itertools
from pathlib import Path
from string import ascii_lowercase

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steering.model.loading import LanguageModel, wrap
from tests.models import CHAT_TEMPLATE, SPECIAL_TOKENS

SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 1024},
    "9M": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 10, "num_attention_heads": 8,
           "num_key_value_heads": 2, "vocab_size": 8192},
    "88M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
            "num_key_value_heads": 4, "vocab_size": 16384},
}  # fmt: skip
"""`tiny` is for trying the bench itself out."""
POSITIONS = 16384
FIRST_WORD = 300
"""Token ids from here on are letters in every tokenizer made here."""


def random_llama(shape: str) -> LanguageModel:
    """float32, tied embeddings, no stop id of its own."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPES[shape],
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    hf = LlamaForCausalLM(config).eval()
    hf.generation_config.eos_token_id = None
    hf.generation_config.pad_token_id = 0
    return wrap(hf, letter_tokenizer(SHAPES[shape]["vocab_size"]), shape)


def letter_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of exactly so many tokens, so that every id a model draws has a text: the bytes, then pairs and
    triples of letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens, merges = [*SPECIAL_TOKENS, *alphabet], list[tuple[str, str]]()
    pairs = [(a, b) for a, b in itertools.product(ascii_lowercase, repeat=2)]
    triples = (("".join(pair), c) for c in ascii_lowercase for pair in pairs)
    for left, right in itertools.islice(itertools.chain(pairs, triples), vocab_size - len(tokens)):
        tokens.append(left + right)
        merges.append((left, right))
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    names = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL_TOKENS, strict=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **names, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save(model: LanguageModel, folder: Path) -> None:
    """As any server loads it."""
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
