"""Off: greedy tokens are those of `generate`, one request at a time, whatever the engine packs together."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request, SamplingParams
from steering.errors import ContextLengthExceeded
from tests.engine.spy import Spy, ids, run_staggered
from tests.models import FAMILY_FIELDS, VOCAB_SIZE, byte_tokenizer, tiny_hf, tiny_model

FULL_ROPE = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e4}
LENGTHS = (33, 1, 130, 17, 2, 64, 65, 3, 100, 40, 5, 16)
MAX_TOKENS = (40, 25, 12, 30, 8, 64, 20, 33, 9, 28, 70, 16)
SLIDING: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILY_FIELDS},
    "no GQA": ("llama", {"num_key_value_heads": 8}),
    "MQA": ("llama", {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
    "MQA with soft-cap": ("gemma2", {"num_key_value_heads": 1}),
    "tied": ("phi3", {"tie_word_embeddings": True}),
    "sliding window": ("qwen3", SLIDING),
    "untied Gemma, no window": ("gemma3_text", {"tie_word_embeddings": False, "layer_types": ["full_attention"] * 4}),
    "all experts": ("mixtral", {"num_experts_per_tok": 4, "sliding_window": 20}),
}
THOROUGH = ("llama", "qwen3", "no GQA", "sliding window")
"""Run with both prefill budgets; the others with the small one, which splits prompts, and on shorter answers."""
RUNS = [
    pytest.param(name, prefill_tokens, deterministic, id=f"{name}-{prefill_tokens}-{mode}")
    for name in MODELS
    for prefill_tokens in ((16, 512) if name in THOROUGH else (16,))
    for mode, deterministic in (("default", False), ("deterministic", True))
]
WITHOUT: dict[str, tuple[str, dict[str, Any]]] = {
    "attention soft-cap": ("gemma2", {"attn_logit_softcapping": None}),
    "window": ("gemma2", {"sliding_window": 512}),
    "alternation of windows": ("gemma2", {"layer_types": ["sliding_attention"] * 4}),
    "scaling": ("gemma2", {"query_pre_attn_scalar": 8}),
    "window of Gemma-3": ("gemma3_text", {"sliding_window": 512}),
    "second RoPE base": (
        "gemma3_text",
        {"rope_parameters": {"full_attention": FULL_ROPE, "sliding_attention": FULL_ROPE}},
    ),
    "window of Mistral": ("mistral", {"sliding_window": None}),
    "partial rotary": ("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    "one expert fewer": ("qwen3_moe", {"num_experts_per_tok": 2}),
}
"""A family without what makes it one."""


@cache
def prompts() -> list[tuple[int, ...]]:
    noise = torch.Generator().manual_seed(5)
    return [tuple(torch.randint(6, VOCAB_SIZE, (n,), generator=noise).tolist()) for n in LENGTHS]


def asked(name: str) -> list[tuple[tuple[int, ...], int]]:
    """(prompt, max_tokens) of each request to a model."""
    pairs = list(zip(prompts(), MAX_TOKENS, strict=True))
    return pairs if name in THOROUGH else [(prompt, min(max_tokens, 24)) for prompt, max_tokens in pairs[:8]]


@cache
def generated(name: str) -> list[list[int]]:
    family, config = MODELS[name]
    hf = tiny_hf(family, **config)
    return [generate(hf, prompt, max_tokens) for prompt, max_tokens in asked(name)]


def generate(hf: PreTrainedModel, prompt: tuple[int, ...], max_tokens: int) -> list[int]:
    """Oracle: the library's own loop, its own cache, one request."""
    ids, end = torch.tensor([prompt]), byte_tokenizer().eos_token_id
    mask = torch.ones_like(ids)
    output = hf.generate(ids, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False, use_cache=True)
    return [i for i in output[0, len(prompt) :].tolist() if i != end]


@pytest.mark.parametrize(("name", "prefill_tokens", "deterministic"), RUNS)
def test_staggered_requests_equal_generate(name: str, prefill_tokens: int, deterministic: bool) -> None:
    family, config = MODELS[name]
    engine = Engine(
        tiny_model(family, **config),
        EngineConfig(max_rows=5, context=256, prefill_tokens=prefill_tokens, deterministic=deterministic),
    )
    spy = Spy(engine)
    requests = [
        Request(str(i), prompt, SamplingParams(max_tokens=max_tokens, temperature=0))
        for i, (prompt, max_tokens) in enumerate(asked(name))
    ]
    done = run_staggered(engine, requests)
    assert [ids(done[request.id]) for request in requests] == generated(name)
    assert {c.finish.reason for c in done.values()} <= {"stop", "length"}
    _check_not_vacuous(spy, prefill_tokens, deterministic)


def _check_not_vacuous(spy: Spy, prefill_tokens: int, deterministic: bool) -> None:
    assert spy.most_rows == 5
    assert any(length > 1 for _, _, length in spy.moves), "no row with content ever moved"
    assert bool(spy.split_prompts) == (prefill_tokens == 16)
    mixed = any(step.rows and step.chunks for step in spy.steps)
    assert mixed is not deterministic


@pytest.mark.parametrize("name", MODELS)
def test_the_models_say_something(name: str) -> None:
    """A model that decodes one token forever would pass any equality test."""
    answers = generated(name)
    assert len({tuple(answer[:5]) for answer in answers}) == len(answers)
    assert sum(len(set(answer)) for answer in answers) > (0.5 if name in THOROUGH else 0.35) * sum(map(len, answers))


def test_windows_are_really_sliding() -> None:
    assert generated("sliding window") != generated("qwen3")


@pytest.mark.parametrize("feature", WITHOUT)
def test_what_makes_a_family_changes_its_tokens(feature: str) -> None:
    """Without this, its equality would not show that the engine does it."""
    family, config = WITHOUT[feature]
    long = LENGTHS.index(64)
    assert generate(tiny_hf(family, **config), *asked(family)[long]) != generated(family)[long]


def test_longrope_is_served_up_to_where_its_frequencies_change() -> None:
    """Phi-3's long variants: beyond their original length the keys already written would be wrong."""
    factors = {"short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [2.0, 4.0, 8.0, 16.0]}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    config: dict[str, Any] = {"rope_parameters": rope, "original_max_position_embeddings": 128}
    engine = Engine(tiny_model("phi3", **config), EngineConfig(context=256, prefill_tokens=16))
    assert engine.context == 128
    short_enough, hf = [prompts()[i][:100] for i in (0, 2, 9)], tiny_hf("phi3", **config)
    done = engine.generate([Request(str(p), p, SamplingParams(28, temperature=0)) for p in short_enough])
    assert [ids(answer) for answer in done] == [generate(hf, p, 28) for p in short_enough]
    with pytest.raises(ContextLengthExceeded, match="context is 128"):
        engine.add(Request("long", prompts()[2], SamplingParams(max_tokens=68)))
    beyond = torch.tensor([prompts()[2]])
    short = tiny_hf("phi3", **(config | {"rope_parameters": rope | {"long_factor": factors["short_factor"]}}))
    assert not torch.allclose(hf(beyond).logits, short(beyond).logits, atol=0.1), "the long factors change nothing"
