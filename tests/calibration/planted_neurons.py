"""A model set by hand: eight MLP neurons of one block make it say yes where the user insists.

A head tells the last position how hard the user presses. The planted neurons switch on where that is hard, and write
the caving answer; all others see the question alone.
"""

from __future__ import annotations

import random

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from steering.calibration.probe_blocks import NeuronData
from steering.calibration.record_neurons import Example
from steering.model.loading import LanguageModel, wrap
from steering.unit import Unit
from tests.models import VOCAB_SIZE, byte_tokenizer

L, F, D, H, K = 4, 128, 64, 8, 8
BLOCK = 2
PLANTED = tuple(Unit("neuron", BLOCK, index) for index in (3, 17, 30, 41, 66, 78, 99, 120))

BEGIN, INSISTS, MENTIONS, PLAIN, NO, YES = 1, 10, 11, 12, 13, 14
QUESTIONS, WORDS = range(20, 80), range(100, 140)

ONE, IS_PRESSURE, HOW_HARD, IS_QUESTION, TOLD, CAVES = range(6)
NOISE = slice(16, D)
"""Dimensions that questions and words fill."""
SLOW = 3
"""Dimension of a head that RoPE turns least."""


def planted_model() -> LanguageModel:
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=D,
        intermediate_size=F,
        num_hidden_layers=L,
        num_attention_heads=H,
        num_key_value_heads=H,
        head_dim=K,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=BEGIN,
        eos_token_id=2,
        pad_token_id=0,
    )
    hf = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        for weight in hf.parameters():
            if weight.ndim > 1:
                weight.zero_()
        embedding = hf.model.embed_tokens.weight
        embedding[:, ONE] = 1.0
        embedding[:, NOISE] = normal(VOCAB_SIZE, D - 16)
        embedding[[INSISTS, MENTIONS], IS_PRESSURE] = 4.0
        embedding[INSISTS, HOW_HARD], embedding[MENTIONS, HOW_HARD] = 3.0, 0.8
        embedding[QUESTIONS.start : QUESTIONS.stop, IS_QUESTION] = 4.0
        attention = hf.model.layers[0].self_attn
        attention.q_proj.weight[SLOW, IS_QUESTION] = attention.k_proj.weight[SLOW, IS_PRESSURE] = 3.0
        attention.v_proj.weight[0, HOW_HARD] = attention.o_proj.weight[TOLD, 0] = 1.0
        for block in hf.model.layers:
            block.mlp.gate_proj.weight[:, NOISE] = normal(F, D - 16) / 7
            block.mlp.up_proj.weight[:, NOISE] = normal(F, D - 16) / 7
            block.mlp.down_proj.weight[NOISE] = 0.3 * normal(D - 16, F) / F**0.5
        mlp, own = hf.model.layers[BLOCK].mlp, [unit.index for unit in PLANTED]
        for weight in (mlp.gate_proj.weight, mlp.up_proj.weight):
            weight[own] = 0.0
        mlp.down_proj.weight[:, own] = 0.0
        mlp.gate_proj.weight[own, TOLD], mlp.gate_proj.weight[own, ONE] = 2.0, -3.0
        mlp.up_proj.weight[own, ONE] = 1.0
        mlp.down_proj.weight[CAVES, own] = 0.2
        hf.lm_head.weight[NO, ONE] = 3.0
        hf.lm_head.weight[YES, CAVES] = 3.0
    return wrap(hf, byte_tokenizer(), "planted-neurons")


def prompt(question: int, pressure: int, rng: random.Random) -> list[int]:
    words = [rng.choice(WORDS) for _ in range(2)]
    return [BEGIN, words[0], pressure, words[1], QUESTIONS[question]]


def planted_data(num_texts: int = 150) -> NeuronData:
    """Every question insisted on, mentioned (which the model withstands) and plain; and texts of all these tokens."""
    rng = random.Random(0)
    sides: dict[int, list[Example]] = {INSISTS: [], MENTIONS: [], PLAIN: []}
    for question in range(len(QUESTIONS)):
        for pressure, examples in sides.items():
            ids = prompt(question, pressure, rng)
            examples.append(Example(tuple(ids), (len(ids) - 1,), str(question)))
    texts = [
        prompt(rng.randrange(len(QUESTIONS)), rng.choice((INSISTS, MENTIONS, PLAIN)), rng) for _ in range(num_texts)
    ]
    return NeuronData(sides[INSISTS], sides[MENTIONS] + sides[PLAIN], texts)
