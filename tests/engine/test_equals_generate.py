"""Off: greedy tokens are those of `generate`, one request at a time, whatever the engine packs together."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from steering.engine.engine import Engine, EngineConfig
from steering.engine.request import Request, SamplingParams
from tests.engine.spy import Spy, ids, run_staggered
from tests.models import VOCAB_SIZE, byte_tokenizer, tiny_hf, tiny_model

LENGTHS = (33, 1, 130, 17, 2, 64, 65, 3, 100, 40, 5, 16)
MAX_TOKENS = (40, 25, 12, 30, 8, 64, 20, 33, 9, 28, 70, 16)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen3": ("qwen3", {}),
    "no GQA": ("llama", {"num_key_value_heads": 8}),
    "sliding window": ("qwen3", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}),
}


@cache
def prompts() -> list[tuple[int, ...]]:
    noise = torch.Generator().manual_seed(5)
    return [tuple(torch.randint(6, VOCAB_SIZE, (n,), generator=noise).tolist()) for n in LENGTHS]


@cache
def generated(name: str) -> list[list[int]]:
    family, config = MODELS[name]
    hf, end = tiny_hf(family, **config), byte_tokenizer().eos_token_id
    answers = []
    for prompt, max_tokens in zip(prompts(), MAX_TOKENS, strict=True):
        tensor = torch.tensor([prompt])
        output = hf.generate(
            tensor, attention_mask=torch.ones_like(tensor), max_new_tokens=max_tokens, do_sample=False, use_cache=True
        )
        answers.append([i for i in output[0, len(prompt) :].tolist() if i != end])
    return answers


@pytest.mark.parametrize("deterministic", [False, True], ids=["default", "deterministic"])
@pytest.mark.parametrize("prefill_tokens", [16, 512])
@pytest.mark.parametrize("name", MODELS)
def test_staggered_requests_equal_generate(name: str, prefill_tokens: int, deterministic: bool) -> None:
    family, config = MODELS[name]
    engine = Engine(
        tiny_model(family, **config),
        EngineConfig(max_rows=5, context=256, prefill_tokens=prefill_tokens, deterministic=deterministic),
    )
    spy = Spy(engine)
    requests = [
        Request(str(i), prompt, SamplingParams(max_tokens=max_tokens, temperature=0))
        for i, (prompt, max_tokens) in enumerate(zip(prompts(), MAX_TOKENS, strict=True))
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
    assert sum(len(set(answer)) for answer in answers) > 0.5 * sum(map(len, answers))


def test_windows_are_really_sliding() -> None:
    assert generated("sliding window") != generated("qwen3")
