"""What the isolation machine draws its requests from: every kind of plan with prompts of all lengths."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import torch

from steering.edit import Project, Scale, Set, Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request, SamplingParams
from steering.gate import Gate
from steering.lens import LogitLens
from steering.model.loading import LanguageModel
from steering.plan import Detector, Plan
from steering.site import Site
from tests.models import VOCAB_SIZE, byte_tokenizer, tiny_model
from tests.plans import (
    BOTH,
    DRIFT,
    LATCH,
    contrast,
    correction,
    dola,
    separating_threshold,
    steered,
    tuned,
    tuned_lens,
    with_threshold,
)

CONTEXT = 80


@cache
def model() -> LanguageModel:
    return tiny_model(
        num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2
    )


@cache
def plans() -> list[Plan]:
    layout, z, mlp, out = model().layout, Site("attn_z", 1), Site("mlp_act", 1), Site("resid_post", 1)
    watch, logit = Detector(tuned_lens(layout, 1), 0.5), Detector(LogitLens(1), 0.5, 16)
    patch = correction(Set, layout, z, gate=DRIFT)
    erase = correction(Project, layout, out, strength=0.7)
    made = [
        Plan(),
        steered(
            erase, correction(Shift, layout, Site("resid_post", 0), gate=Gate(phases=BOTH), strength=0.5), dola(0, 1)
        ),
        steered(patch, detector=watch, trace=True),
        steered(correction(Scale, layout, mlp, gate=LATCH), erase, detector=logit),
        steered(patch, contrast(gate=LATCH), detector=watch),
        Plan(mode="observe", detector=watch),
        steered(tuned(layout, layers=(0, 1))),
        steered(
            tuned(layout, layers=(1,), seed=1), tuned(layout, layers=(1,), strength=0.5, seed=2), patch, detector=watch
        ),
    ]
    return [plan if plan.detector is None else with_threshold(plan, _middle_drift(plan)) for plan in made]


def _middle_drift(plan: Plan) -> float:
    watching = replace(plan, mode="observe", trace="tokens")
    answers = Engine(model(), config(deterministic=True)).generate(
        [Request(str(i), prompt, SamplingParams(10, temperature=0), watching) for i, prompt in enumerate(prompts())]
    )
    return separating_threshold([t.reading.drift for answer in answers for t in answer.tokens if t.reading])


@cache
def prompts() -> list[tuple[int, ...]]:
    noise = torch.Generator().manual_seed(3)
    return [tuple(torch.randint(6, VOCAB_SIZE, (n,), generator=noise).tolist()) for n in (1, 2, 7, 16, 17, 33, 55)]


@cache
def pool() -> list[Request]:
    """Every plan with every prompt; half of them greedy, half drawn; a third without log-probabilities; some with
    penalties, a bias or a scored prompt. Then some with several answers, which share their prompt or cannot."""
    samplings = itertools.cycle(
        [
            SamplingParams(9, temperature=0, logprobs=2),
            SamplingParams(12, temperature=1.2, seed=7, logprobs=0),
            SamplingParams(4, temperature=0),
            SamplingParams(11, temperature=0, logprobs=1, frequency_penalty=1.5, repetition_penalty=1.3),
            SamplingParams(7, temperature=0.8, top_p=0.9, top_k=40, seed=2**63, logprobs=5),
            SamplingParams(1, temperature=0, logprobs=1),
            SamplingParams(8, temperature=1.0, seed=3, logit_bias=((9, 100.0), (10, 98.0)), presence_penalty=2.0),
            SamplingParams(0, prompt_logprobs=2),
            SamplingParams(6, temperature=0, prompt_logprobs=0, stop_token_ids=tuple(range(40, 60))),
        ]
    )
    cells = itertools.product(plans(), prompts())
    single = [Request("", prompt, next(samplings), plan) for plan, prompt in cells]
    drawn = SamplingParams(6, temperature=1.2, seed=2**64 - 2, logprobs=1, prompt_logprobs=1, frequency_penalty=0.5)
    several = [
        Request("", prompt, drawn, plan, n=n)
        for plan, prompt, n in zip(plans()[::2], prompts()[2::2], (5, 2, 3), strict=False)
    ]
    compared = [
        Request("", prompt, drawn, plan, compare=True)
        for plan, prompt in zip(plans()[1:5:2], prompts()[4:], strict=False)
    ]
    weights = [
        Request("", prompts()[3], drawn, plans()[-2], n=3),
        Request("", prompts()[5], drawn, plans()[-2], compare=True),
    ]
    return [*single, *several, *compared, *weights, *exempting()]


def exempting() -> list[Request]:
    """Answers with a block of code in which the plan exempts what it does, the rest drawn."""
    code = frozenset({"code"})
    always, gated = (replace(plans()[i], exempt=code) for i in (1, 3))
    begun = tuple(byte_tokenizer().encode("\n```\nx\n``", add_special_tokens=False))
    drawn = SamplingParams(len(begun) + 6, temperature=1.2, forced=begun, logprobs=1)
    return [
        Request("", prompts()[2], drawn, always, n=2),
        Request("", prompts()[4], drawn, gated),
        Request("", prompts()[3], replace(drawn, temperature=0), gated, compare=True),
    ]


def config(*, deterministic: bool, tight: bool = False) -> EngineConfig:
    """tight: memory for little more than two of the longest rows, and in default mode a prefix cache in it."""
    size = EngineConfig(max_rows=5, context=CONTEXT, prefill_tokens=16, queue=3, deterministic=deterministic)
    if not tight or deterministic:
        return replace(size, prefix_cache=0)
    token = model().layout.kv_bytes_per_token(model().dtype)
    return replace(size, kv_memory=130 * token, prefix_cache=96 * token)
