"""A model set by hand: one attention head makes it say what its user claims."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from steering.calibration.localisation import Unit
from steering.calibration.patch_paths import Pair
from steering.model.loading import LanguageModel, wrap
from tests.models import VOCAB_SIZE, byte_tokenizer

L, H, G, K, D = 4, 8, 4, 8, 64
NUM_ANSWERS = 8
MOVER = Unit(2, 5)
"""Copies the claim to where the answer is decided."""
MOVER_GROUP = Unit(2, 2)
CALLER = Unit(0, 2)
"""In a model whose mover must be called: tells it that the user put on pressure."""

BEGIN, END, FILLER, PRESSURE = 1, 10, 11, 12
QUESTIONS = range(20, 20 + NUM_ANSWERS)
ANSWERS = range(40, 40 + NUM_ANSWERS)
"""Answer i is right for question i."""

ONE, IS_ANSWER, IS_PRESSURE, CALLED, IS_QUESTION, IS_END = range(6)
ASKED, SAID, OUT = 16, 8, 24
"""First of NUM_ANSWERS dimensions each: the question read, the answer read, the answer to say."""
SLOW = 3
"""Dimension of a head that RoPE turns least."""


def planted_model(*, called: bool = False, noise: float = 0.02) -> LanguageModel:
    """Head 1.0 answers from the question; the mover overrules it. Everything else is noise."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=D,
        intermediate_size=32,
        num_hidden_layers=L,
        num_attention_heads=H,
        num_key_value_heads=G,
        head_dim=K,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=BEGIN,
        eos_token_id=2,
        pad_token_id=0,
    )
    hf = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in hf.parameters():
            if weight.ndim > 1:
                weight.copy_(noise * torch.randn(weight.shape, generator=generator))
        _embed(hf)
        _plant(hf, Unit(1, 0), query=IS_END, key=IS_QUESTION, reads=range(ASKED, ASKED + K), writes=0.5)
        mover = {"query": CALLED, "writes": 1.5} if called else {"query": IS_END, "writes": 1.0}
        _plant(hf, MOVER, key=IS_ANSWER, reads=range(SAID, SAID + K), **mover)
        if called:
            _plant(hf, CALLER, query=IS_END, key=IS_PRESSURE, reads=[IS_PRESSURE] * K, writes=0.0)
            hf.model.layers[CALLER.layer].self_attn.o_proj.weight[CALLED, CALLER.index * K] = 0.3
    return wrap(hf, byte_tokenizer(), "planted")


def planted_pairs(*, called: bool = False) -> list[Pair]:
    """A claims a wrong answer; B does not, or, where the mover must be called, mentions it without pressure."""
    return [
        Pair(
            (BEGIN, FILLER, QUESTIONS[i], PRESSURE, ANSWERS[j], END),
            (BEGIN, FILLER, QUESTIONS[i], FILLER, ANSWERS[j] if called else FILLER, END),
            ANSWERS[j],
            ANSWERS[i],
            cluster=str(i),
        )
        for i in range(NUM_ANSWERS)
        for j in ((i + 1) % NUM_ANSWERS, (i + 3) % NUM_ANSWERS)
    ]


def _embed(hf: LlamaForCausalLM) -> None:
    embedding, unembedding = hf.model.embed_tokens.weight, hf.lm_head.weight
    embedding[:, ONE] = 1.0
    embedding[PRESSURE, IS_PRESSURE] = 1.0
    embedding[END, IS_END] = 1.0
    for i in range(NUM_ANSWERS):
        embedding[ANSWERS[i], [IS_ANSWER, SAID + i]] = 1.0
        embedding[QUESTIONS[i], [IS_QUESTION, ASKED + i]] = 1.0
        unembedding[ANSWERS[i], OUT + i] = 1.0


def _plant(hf: LlamaForCausalLM, head: Unit, *, query: int, key: int, reads: range | list[int], writes: float) -> None:
    """A head that looks from where `query` is set to where `key` is, and adds what stands in `reads` to OUT."""
    attention, group = hf.model.layers[head.layer].self_attn, head.index // (H // G)
    own, shared = slice(head.index * K, (head.index + 1) * K), slice(group * K, (group + 1) * K)
    attention.q_proj.weight[own] = 0.0
    attention.k_proj.weight[shared] = 0.0
    attention.v_proj.weight[shared] = 0.0
    attention.q_proj.weight[head.index * K + SLOW, query] = 3.0
    attention.k_proj.weight[group * K + SLOW, key] = 3.0
    for i, dimension in enumerate(reads):
        attention.v_proj.weight[group * K + i, dimension] = 1.0
    attention.o_proj.weight[OUT : OUT + NUM_ANSWERS, own] = writes * torch.eye(NUM_ANSWERS)
