"""Deterministic mode: in every family a row's bits are its own, whatever runs beside it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.moe import ExpertsInterface

from steering.edit import Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.gate import Gate
from steering.model.experts import NAME, every_row_experts
from steering.model.loading import LanguageModel
from steering.plan import Plan
from steering.site import Site
from tests.engine.spy import run_staggered
from tests.models import FAMILY_FIELDS, VOCAB_SIZE, endless_model, tiny_hf
from tests.plans import BOTH, correction, steered

SAMPLING = SamplingParams(8, temperature=0, logprobs=4)
MIXTURES = ("qwen3_moe", "mixtral")


@cache
def model(family: str) -> LanguageModel:
    return endless_model(family)


@cache
def prompts() -> list[tuple[int, ...]]:
    noise = torch.Generator().manual_seed(3)
    return [tuple(torch.randint(6, VOCAB_SIZE, (n,), generator=noise).tolist()) for n in (21, 40, 7, 33, 12)]


def serve(family: str, rows: tuple[int, ...], plan: Plan, *, deterministic: bool = True) -> dict[str, Completion]:
    """Row 0 runs plain, the others under the plan."""
    config = EngineConfig(max_rows=5, context=64, prefill_tokens=16, deterministic=deterministic)
    engine = Engine(model(family), config)
    done = run_staggered(engine, [Request(str(i), prompts()[i], SAMPLING, plan if i else Plan()) for i in rows])
    engine.close()
    return done


def bits(completion: Completion) -> list[object]:
    return [(token.id, token.logprob, token.top_logprobs) for token in completion.tokens]


@pytest.mark.parametrize("family", FAMILY_FIELDS)
def test_C3_a_row_does_not_feel_its_neighbours(family: str) -> None:
    plan = steered(correction(Shift, model(family).layout, Site("resid_post", 1), gate=Gate(phases=BOTH)))
    alone = bits(serve(family, (0,), plan)["0"])
    assert bits(serve(family, (3, 1, 0, 2, 4), plan)["0"]) == alone
    assert bits(serve(family, (0, 4, 1), Plan())["0"]) == alone


@pytest.mark.parametrize("deterministic", [False, True], ids=["default", "deterministic"])
@pytest.mark.parametrize("family", MIXTURES)
def test_fixed_experts_serve_deterministic_mode_alone(
    family: str, deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's own multiply as many rows as were sent to each expert: other shapes, and on most CPUs other bits."""
    calls: list[int] = []

    def counted(module: nn.Module, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        calls.append(len(hidden))
        return every_row_experts(module, hidden, chosen, weights)

    monkeypatch.setitem(ExpertsInterface._global_mapping, NAME, counted)
    serve(family, (0,), Plan(), deterministic=deterministic)
    assert set(calls) == ({4, 8, 16} if deterministic else set())  # 20 prompt tokens in chunks of 16, padded rows


@pytest.mark.parametrize("family", MIXTURES)
def test_fixed_experts_compute_what_the_models_own_do(family: str) -> None:
    hf, noise = tiny_hf(family).requires_grad_(False), torch.Generator().manual_seed(1)
    experts, N, k = hf.model.layers[0].mlp.experts, 9, hf.config.num_experts_per_tok
    hidden = torch.randn(N, 64, generator=noise)
    chosen = torch.stack([torch.randperm(hf.config.num_local_experts, generator=noise)[:k] for _ in range(N)])
    weights = torch.rand(N, k, generator=noise)
    hf.set_experts_implementation("eager")
    own = experts(hidden, chosen, weights)
    torch.testing.assert_close(every_row_experts(experts, hidden, chosen, weights), own, rtol=1e-5, atol=1e-5)
    assert own.abs().min(dim=-1).values.max() > 0


def test_closing_an_engine_leaves_the_experts_as_they_were() -> None:
    hf = model("mixtral").hf
    before = hf.config._experts_implementation
    engine = Engine(model("mixtral"), EngineConfig(context=64, deterministic=True))
    assert hf.config._experts_implementation == NAME != before
    engine.close()
    assert hf.config._experts_implementation == before
