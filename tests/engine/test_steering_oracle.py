"""Steered: corrections of every kind, mixed in one batch, equal the oracle that re-runs one sequence per token."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from transformers import PreTrainedModel

from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Reading, Request, SamplingParams
from steering.gate import Gate
from steering.lens import LogitLens
from steering.model.layout import Layout, layout_of
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import Spy, ids, run_staggered
from tests.models import VOCAB_SIZE, endless_model, tiny_hf
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
    tuned_lens,
    with_threshold,
)

EARLY = 1
MAX_TOKENS = 10
TOLERANCE = 1e-4
FAMILIES = ("llama", "qwen3")


@dataclass(frozen=True)
class Case:
    name: str
    plan: Plan
    """Its threshold, if it has a detector, is replaced by one that separates the drifts of its prompt."""
    prompt: int


@cache
def prompts() -> list[tuple[int, ...]]:
    noise = torch.Generator().manual_seed(11)
    return [tuple(torch.randint(6, VOCAB_SIZE, (n,), generator=noise).tolist()) for n in (9, 30, 2, 47, 17, 23)]


@cache
def plain_hf(family: str) -> PreTrainedModel:
    hf = tiny_hf(family)
    hf.set_attn_implementation("eager")
    return hf


def detector(layout: Layout, *, num_candidates: int = 64) -> Detector:
    return Detector(tuned_lens(layout, EARLY), 0.5, num_candidates)


def always_cases(layout: Layout) -> list[Case]:
    """Every edit at every site in every phase; the strengths take turns."""
    strengths = itertools.cycle((1.0, 0.5, -0.5))
    cells = itertools.product(KINDS, COMPONENTS, (PROMPT, COMPLETION, BOTH))
    cases = []
    for i, (kind, component, phases) in enumerate(cells):
        # What the last block does to the prompt no later block reads.
        site = Site(component, i % (3 if phases == PROMPT else 4))
        part = correction(kind, layout, site, gate=Gate(phases=phases), seed=i)
        plan = steered(part, strength=next(strengths))
        cases.append(Case(f"{part.name} {'+'.join(sorted(phases))} x{plan.strength}", plan, i % len(prompts())))
    return cases


def gated_cases(layout: Layout) -> list[Case]:
    cases = []
    for i, (kind, component, gate) in enumerate(itertools.product(KINDS, COMPONENTS, (DRIFT, LATCH))):
        part = correction(kind, layout, Site(component, EARLY + i % 3), gate=gate, strength=0.8, seed=i)
        name = f"{part.name} {'latch' if gate.latch else 'drift'}"
        cases.append(Case(name, steered(part, detector=detector(layout), trace=True), i % len(prompts())))
    return cases


def contrast_cases(layout: Layout) -> list[Case]:
    cases = []
    for i, (beta, a, gate) in enumerate(itertools.product((0.0, 0.1), (0.5, 1.0), (Gate(), DRIFT, LATCH))):
        plan = steered(contrast(beta, gate=gate, a=a), detector=detector(layout, num_candidates=16), trace=True)
        cases.append(Case(f"contrast beta={beta} a={a} {gate.kind} {gate.latch}", plan, i % len(prompts())))
    return cases


def layer_contrast_cases(layout: Layout) -> list[Case]:
    watch = detector(layout, num_candidates=16)
    push = correction(KINDS[2], layout, Site("resid_post", 1), gate=Gate(phases=BOTH), strength=0.3)
    patch = correction(KINDS[0], layout, Site("attn_z", 2), gate=DRIFT)
    return [
        *(Case(f"dola {i}", steered(dola(0, 1, 2, 3)), i) for i in range(len(prompts()))),
        Case("dola, upper bucket", steered(dola(2, 3)), 0),
        Case("dola, one layer, no cut", steered(dola(1, plausibility=0.0)), 1),
        Case("half a dola", steered(dola(0, 2, a=0.5), strength=0.8), 2),
        Case("gated dola", steered(dola(0, 1, 3, gate=DRIFT), detector=watch, trace=True), 3),
        Case("latched dola", steered(dola(1, 2, gate=LATCH), detector=watch), 4),
        Case("dola of corrected states", steered(push, dola(1, 2)), 5),
        Case("dola after a retry", steered(patch, dola(1, 3), detector=watch, trace=True), 0),
        Case("dola and contrast", steered(dola(0, 3, a=0.5), contrast(a=0.5), detector=watch), 1),
        Case("two dolas", steered(dola(3, a=0.3), dola(0, 1, plausibility=0.02, a=0.7)), 2),
    ]


def combined_cases(layout: Layout) -> list[Case]:
    """Several parts in one plan, two of them at one site; gates of every kind side by side."""
    z, site = Site("attn_z", 2), Site("resid_post", 2)
    shift, project = KINDS[2], KINDS[3]
    two = (correction(shift, layout, site, seed=1), correction(project, layout, site, strength=0.5, seed=2))
    mixed = (
        correction(KINDS[0], layout, z, gate=DRIFT, seed=3),
        correction(KINDS[1], layout, Site("mlp_act", 3), gate=LATCH, seed=4),
        correction(shift, layout, Site("resid_post", 1), gate=Gate(phases=BOTH), strength=0.3, seed=5),
    )
    late = replace(detector(layout), lens=LogitLens(3))
    last = correction(KINDS[0], layout, Site("attn_z", 3), gate=DRIFT, seed=6)
    embeddings = replace(detector(layout), lens=tuned_lens(layout, 0))
    first = correction(KINDS[0], layout, Site("attn_z", 0), gate=DRIFT, seed=7)
    watch = detector(layout)
    return [
        Case("two at one site", steered(*two), 0),
        Case("shared with another strength", steered(two[0], strength=0.25), 2),
        Case("same edit twice", steered(two[0], replace(two[0], name="again", strength=-0.25)), 1),
        Case("every gate", steered(*mixed, detector=watch, trace=True), 3),
        Case("every gate and contrast", steered(*mixed, contrast(gate=DRIFT), detector=watch), 4),
        Case("always and gated contrast", steered(two[0], contrast(gate=DRIFT), detector=watch), 5),
        Case("gated and always contrast", steered(mixed[0], contrast(0.01, a=0.5), detector=watch, trace=True), 0),
        Case("two contrasts", steered(contrast(a=0.3), contrast(0.05, gate=DRIFT, a=0.7), detector=watch), 1),
        Case("logit lens, layer 3", steered(last, detector=late, trace=True), 2),
        Case("tuned lens on embeddings", steered(first, detector=embeddings), 4),
    ]


def idle_cases(layout: Layout) -> list[Case]:
    """What changes nothing."""
    watch, few = detector(layout), detector(layout, num_candidates=4)
    part, gated = correction(KINDS[2], layout, Site("resid_post", 2)), correction(KINDS[0], layout, Site("attn_z", 1))
    gated = replace(gated, gate=LATCH)
    return [
        *(Case(f"off {i}", Plan(), i) for i in range(len(prompts()))),
        Case("strength 0", steered(part, strength=0.0), 0),
        Case("strength 0 gated", steered(gated, detector=watch, strength=0.0, trace=True), 1),
        Case("observe", replace(steered(gated, detector=watch, trace=True), mode="observe"), 3),
        Case("observe, no corrections", Plan(mode="observe", detector=watch, trace="tokens"), 4),
        Case("observe, few candidates", replace(steered(detector=few, trace=True), mode="observe"), 2),
        Case("mode off", replace(steered(part, gated, detector=watch), mode="off"), 5),
        Case("contrast, negative a", steered(contrast(a=-0.5), detector=watch), 2),
        Case("dola, negative a", steered(dola(0, 2, a=-0.5)), 3),
    ]


@cache
def cases(family: str) -> list[Case]:
    """All of them, shuffled, so that neighbours differ; thresholds in the middle of each prompt's own drifts."""
    layout = layout_of(plain_hf(family))
    made = [
        *always_cases(layout),
        *gated_cases(layout),
        *contrast_cases(layout),
        *layer_contrast_cases(layout),
        *combined_cases(layout),
        *idle_cases(layout),
    ]
    made = [c if c.plan.detector is None else _with_own_threshold(family, c) for c in made]
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(2)).tolist()
    return [made[i] for i in order]


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


@cache
def served(family: str, prefill_tokens: int, deterministic: bool) -> tuple[dict[str, Completion], Spy]:
    model = endless_model(family)
    config = EngineConfig(max_rows=7, context=80, prefill_tokens=prefill_tokens, deterministic=deterministic)
    engine = Engine(model, config)
    spy = Spy(engine)
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0, logprobs=3)
    requests = [Request(c.name, prompts()[c.prompt], sampling, c.plan) for c in cases(family)]
    done = run_staggered(engine, requests, every=1)
    engine.close()
    return done, spy


MODES = [
    pytest.param(16, False, id="default-16"),
    pytest.param(512, False, id="default-512"),
    pytest.param(16, True, id="deterministic"),
]
CASE_NAMES = [case.name for case in cases("llama")]
UNTRACED = {case.name for case in cases("llama") if case.plan.trace != "tokens"}


@pytest.mark.parametrize(("prefill_tokens", "deterministic"), MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_batch_equals_the_oracle(family: str, prefill_tokens: int, deterministic: bool) -> None:
    done, spy = served(family, prefill_tokens, deterministic)
    for name, positions in expected(family).items():
        _check_equal(name, done[name], positions, traced=name not in UNTRACED)
    assert spy.most_rows == 7
    assert any(length > 1 for _, _, length in spy.moves)
    assert spy.retries == sum(p.retried for positions in expected(family).values() for p in positions) > 60


def _check_equal(name: str, completion: Completion, positions: list[Position], *, traced: bool) -> None:
    assert ids(completion) == [p.token_id for p in positions], name
    told = True
    for token, position in zip(completion.tokens, positions, strict=True):
        assert token.logprob == pytest.approx(position.logprobs[token.id].item(), abs=TOLERANCE), name
        assert token.steered == position.steered, name
        for token_id, logprob in token.top_logprobs:
            assert logprob == pytest.approx(position.logprobs[token_id].item(), abs=TOLERANCE), name
        if token.reading is not None and told:
            _check_reading(name, token.id, token.reading, position)
            told = traced or not position.fired  # else the receipt has what it will say


def early_answer(position: Position) -> dict[int, float]:
    """Token -> log-probability: of the whole vocabulary where a gate opened, among the candidates elsewhere."""
    if not position.fired or position.early_logprobs is None:
        return position.early
    return dict(enumerate(position.early_logprobs.tolist()))


def _check_reading(name: str, token_id: int, reading: Reading, position: Position) -> None:
    assert reading.fired == position.fired, name
    assert reading.late_steered == position.late_steered, name
    assert reading.drift == pytest.approx(position.drift, abs=TOLERANCE), name
    for listed, expected in ((reading.early, early_answer(position)), (reading.late, position.late)):
        best = sorted(expected, key=lambda i: -expected[i])[: len(listed)]
        assert [i for i, _ in listed] == best, name
        assert [p for _, p in listed] == pytest.approx([expected[i] for i in best], abs=TOLERANCE), name
    if reading.base_logprob is not None:
        assert reading.base_logprob == pytest.approx(position.base_logprobs[token_id].item(), abs=TOLERANCE), name


@pytest.mark.parametrize("family", FAMILIES)
def test_traced_tokens_carry_their_uncorrected_probability(family: str) -> None:
    """Wherever an uncorrected pass was run, and nowhere else."""
    done, _ = served(family, 16, False)
    traced = [token for c in cases(family) if c.plan.trace == "tokens" for token in done[c.name].tokens]
    readings = [token.reading for token in traced if token.reading]
    assert len(readings) == len(traced) > 200
    assert all((r.base_logprob is None) == r.late_steered for r in readings)
    assert 50 < sum(r.late_steered for r in readings) < len(readings) - 50
    untraced = [token for c in cases(family) if c.plan.trace == "off" for token in done[c.name].tokens]
    assert {token.reading.base_logprob if token.reading else None for token in untraced} == {None}


@pytest.mark.parametrize("family", FAMILIES)
def test_receipts_tell_what_the_oracle_saw(family: str) -> None:
    done, _ = served(family, 16, False)
    for case in cases(family):
        positions, receipt = expected(family)[case.name], done[case.name].finish.receipt
        assert receipt.tokens == len(positions), case.name
        assert receipt.steered_tokens == sum(p.steered for p in positions), case.name
        if case.plan.measures:
            fired = [i for i, p in enumerate(positions) if p.fired]
            assert receipt.fired_tokens == len(fired), case.name
            assert receipt.at == (fired[0] if fired else None), case.name
            decisive = positions[fired[0]] if fired else max(positions, key=lambda p: p.drift or 0)
            early = early_answer(decisive)
            assert receipt.early_token == max(early, key=lambda i: early[i]), case.name
            assert receipt.late_token == max(decisive.late, key=lambda i: decisive.late[i]), case.name
            assert receipt.max_drift == pytest.approx(max(p.drift or 0 for p in positions), abs=TOLERANCE), case.name


@pytest.mark.parametrize("family", FAMILIES)
def test_some_early_answers_are_no_candidates(family: str) -> None:
    """Without this, the readings above would be the same if they named candidates alone; in mode observe too."""
    for mode in ("on", "observe"):
        positions = [p for c in cases(family) if c.plan.mode == mode for p in expected(family)[c.name] if p.fired]
        outside = [p for p in positions if max(early_answer(p), key=lambda i: early_answer(p)[i]) not in p.early]
        assert len(positions) > len(outside) > (10 if mode == "on" else 2), mode


@pytest.mark.parametrize("family", FAMILIES)
def test_every_correction_changes_its_request(family: str) -> None:
    """Without this, equality with the oracle would prove nothing."""
    idle = {case.name for case in idle_cases(layout_of(plain_hf(family)))}
    for case in cases(family):
        off = expected(family)[f"off {case.prompt}"]
        gaps = [
            (p.logprobs - q.logprobs).abs().max().item() for p, q in zip(expected(family)[case.name], off, strict=True)
        ]
        assert (max(gaps) < 1e-6) if case.name in idle else (max(gaps) > 100 * TOLERANCE), case.name


@pytest.mark.parametrize("family", FAMILIES)
def test_gates_fire_for_some_and_not_for_others(family: str) -> None:
    gated = [c for c in cases(family) if any(g.gate == DRIFT for g in c.plan.all_corrections)]
    acting = [c for c in gated if c.plan.acts]
    shares = [sum(p.fired for p in expected(family)[c.name]) / MAX_TOKENS for c in acting]
    assert len(acting) > 15
    assert sum(0 < share < 1 for share in shares) > 0.8 * len(shares)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_latch_stays_open(family: str) -> None:
    latched = [c for c in cases(family) if c.plan.acts and c.plan.all_corrections[0].gate == LATCH]
    late_starts = 0
    for case in latched:
        steps = [p.steered for p in expected(family)[case.name]]
        assert steps == sorted(steps), case.name
        late_starts += 0 < sum(steps) < MAX_TOKENS
    assert len(latched) > 10
    assert late_starts > 5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_plan_latches_gate_by_gate(family: str) -> None:
    """After the first fire one gate stays open while the other shuts and fires again: several retries in one answer."""
    retried = [p.retried for p in expected(family)["every gate"]]
    assert sum(retried) > 1
    assert not all(retried[retried.index(True) :])
