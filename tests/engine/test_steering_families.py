"""Steered, in every family: each edit, each site and each gate equals the oracle. Llama and Qwen3 have all
combinations, in `test_steering_oracle`."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import pytest

from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.errors import LayerOutOfRange
from steering.gate import Gate
from steering.model.layout import Layout, layout_of
from steering.plan import Plan
from steering.site import Site
from tests.engine.spy import Spy, run_staggered
from tests.engine.test_steering_oracle import TOLERANCE, Case, _check_equal, detector, plain_hf, prompts
from tests.models import FAMILY_FIELDS, endless_model, tiny_model
from tests.oracles.plain_hf import Position, answer
from tests.plans import (
    BOTH,
    COMPLETION,
    COMPONENTS,
    DRIFT,
    KINDS,
    LATCH,
    PROMPT,
    contrast,
    correction,
    dola,
    separating_threshold,
    steered,
    with_threshold,
)

FAMILIES = [family for family in FAMILY_FIELDS if family not in ("llama", "qwen3")]
MAX_TOKENS = 6


def sites(layout: Layout) -> list[Site]:
    """One of each component, of layers of both kinds where they alternate. No MLP site where all are experts."""
    mlp_layers = [layer for layer, linear in enumerate(layout.mlp_outputs) if linear is not None]
    at = {"resid_post": 2, "attn_z": 1, "mlp_act": mlp_layers[-1] if mlp_layers else None}
    return [Site(component, layer) for component in COMPONENTS if (layer := at[component]) is not None]


@cache
def cases(family: str) -> list[Case]:
    layout = layout_of(plain_hf(family))
    phases, gates, made = itertools.cycle((PROMPT, COMPLETION, BOTH)), itertools.cycle((DRIFT, LATCH)), list[Case]()
    for i, (kind, site) in enumerate(itertools.product(KINDS, sites(layout))):
        always = correction(kind, layout, site, gate=Gate(phases=next(phases)), seed=i)
        made.append(Case(f"{always.name} always", steered(always, strength=0.7), i % 4))
        if i % 2 == 0:
            gated = correction(kind, layout, site, gate=next(gates), strength=0.8, seed=i)
            made.append(Case(f"{gated.name} gated", steered(gated, detector=detector(layout), trace=True), i % 4))
    patch = correction(KINDS[0], layout, Site("attn_z", 3), gate=DRIFT)
    watch = detector(layout, num_candidates=16)
    made += [
        Case("contrast", steered(contrast(0.01, a=0.7), detector=watch, trace=True), 0),
        Case("gated contrast", steered(contrast(gate=LATCH), detector=watch, trace=True), 1),
        Case("patch and contrast", steered(patch, contrast(gate=DRIFT, a=0.5), detector=watch), 3),
        Case("dola", steered(dola(0, 1, 2, 3)), 2),
        Case("observe", Plan(mode="observe", detector=watch, trace="tokens"), 2),
    ]
    thresholds = [c if c.plan.detector is None else _with_own_threshold(family, c) for c in made]
    return [*thresholds, *(Case(f"off {i}", Plan(), i) for i in range(4))]


def _with_own_threshold(family: str, case: Case) -> Case:
    watching = replace(case.plan, mode="observe")
    drifts = [p.drift for p in answer(plain_hf(family), prompts()[case.prompt], watching, max_tokens=MAX_TOKENS)]
    return replace(case, plan=with_threshold(case.plan, separating_threshold([d for d in drifts if d is not None])))


@cache
def expected(family: str) -> dict[str, list[Position]]:
    return {
        case.name: answer(plain_hf(family), prompts()[case.prompt], case.plan, max_tokens=MAX_TOKENS)
        for case in cases(family)
    }


def served(family: str, *, deterministic: bool) -> tuple[dict[str, Completion], Spy]:
    model = endless_model(family)
    engine = Engine(model, EngineConfig(max_rows=6, context=64, prefill_tokens=16, deterministic=deterministic))
    spy = Spy(engine)
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0, logprobs=3)
    done = run_staggered(engine, [Request(c.name, prompts()[c.prompt], sampling, c.plan) for c in cases(family)])
    engine.close()
    return done, spy


@pytest.mark.parametrize("deterministic", [False, True], ids=["default", "deterministic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_batch_equals_the_oracle(family: str, deterministic: bool) -> None:
    done, spy = served(family, deterministic=deterministic)
    traced = {case.name for case in cases(family) if case.plan.trace == "tokens"}
    for name, positions in expected(family).items():
        _check_equal(name, done[name], positions, traced=name in traced)
    assert spy.retries == sum(p.retried for positions in expected(family).values() for p in positions) > 4


@pytest.mark.parametrize("family", FAMILIES)
def test_every_correction_changes_its_request(family: str) -> None:
    """Without this, equality with the oracle would prove nothing."""
    for case in cases(family):
        off = expected(family)[f"off {case.prompt}"]
        pairs = zip(expected(family)[case.name], off, strict=True)
        gap = max((p.logprobs - q.logprobs).abs().max().item() for p, q in pairs)
        idle = case.name == "observe" or case.name.startswith("off")
        assert (gap < 1e-6) if idle else (gap > 100 * TOLERANCE), case.name


def test_mixtures_of_experts_are_steered_but_for_their_activations() -> None:
    mixtral, qwen = tiny_model("mixtral"), tiny_model("qwen3_moe")
    for model, layer in ((mixtral, 1), (qwen, 0)):
        part = correction(KINDS[2], model.layout, Site("mlp_act", layer))
        with pytest.raises(LayerOutOfRange, match=rf"layer {layer} is a mixture of experts.*attn_z\.{layer}"):
            Engine(model, EngineConfig(context=64)).add(Request("a", (9, 8), SamplingParams(2), steered(part)))
        model.layout.check_site(Site("attn_z", layer))
    qwen.layout.check_site(Site("mlp_act", 1))  # its one dense layer
    assert [site.component for site in sites(mixtral.layout)] == ["resid_post", "attn_z"]
    assert Site("mlp_act", 1) in sites(qwen.layout)
