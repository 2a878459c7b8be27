"""Random Llamas of real shapes: speed does not depend on what the weights say."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from steering.model.loading import LanguageModel, wrap
from tests.models import byte_tokenizer

SHAPES = {
    "9M": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 10, "num_attention_heads": 8,
           "num_key_value_heads": 2, "vocab_size": 8192},
    "88M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
            "num_key_value_heads": 4, "vocab_size": 16384},
}  # fmt: skip


def random_llama(shape: str) -> LanguageModel:
    """float32, tied embeddings, no stop id: every answer has the length asked for."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPES[shape],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    hf = LlamaForCausalLM(config).eval()
    hf.generation_config.eos_token_id = None
    hf.generation_config.pad_token_id = 0
    return wrap(hf, byte_tokenizer(), shape)
