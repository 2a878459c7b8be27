"""Everything at once: many rows, each under a plan of its own, beside each other get what each gets alone.

Deterministic mode: bit for bit. Default mode: tokens equal, log-probabilities within 1e-4. And what is off costs no
operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from steering.correction import Correction
from steering.edit import Project, Scale, Set, Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.gate import Gate
from steering.lens import LogitLens
from steering.model.hooks import Dose
from steering.model.loading import LanguageModel
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import Spy, gather, ids, run_staggered
from tests.models import VOCAB_SIZE, endless_model
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

MODES = [pytest.param(False, id="default"), pytest.param(True, id="deterministic")]
ROWS = 24
TOLERANCE = 1e-4


@cache
def model() -> LanguageModel:
    return endless_model()


def patch(i: int, gate: Gate) -> Correction:
    """Profile i's own edit at one of two sites, so that all kinds meet there."""
    kind = (Set, Scale, Shift, Project)[i % 4]
    return correction(kind, model().layout, Site("attn_z", 2 + i % 2), gate=gate, strength=0.4 + 0.1 * (i % 5), seed=i)


def plan(i: int) -> Plan:
    """Two thirds with a lens, most of which are copies of one; each seventh off."""
    layout = model().layout
    lens = LogitLens(1) if i % 5 == 0 else tuned_lens(layout, 1)
    watch = Detector(lens, 0.5, (64, 16)[i % 7 == 3])
    push = correction(Shift, layout, Site("resid_post", 2), gate=Gate(phases=BOTH), strength=0.3, seed=i)
    erase = correction(Project, layout, Site("resid_post", 2), strength=0.6, seed=i + 1)
    named = replace(push, name="second push", strength=0.2 + 0.01 * i)
    choices = (
        steered(patch(i, DRIFT), detector=watch),
        steered(push, erase, named, strength=0.5 + 0.1 * (i % 4)),
        steered(patch(i, LATCH), push, contrast(0.01 * (i % 2), gate=DRIFT, a=0.3 + 0.05 * (i % 9)), detector=watch),
        steered(tuned(layout, layers=(1, 2), seed=i % 2), erase),
        steered(dola(0, 1 + i % 3, a=0.5), contrast(a=0.4), contrast(0.1, a=0.3), detector=watch, trace=i % 2 == 0),
        steered(tuned(layout, layers=(2,), seed=3), tuned(layout, layers=(1, 2), seed=i % 2), patch(i, DRIFT),
                dola(1, gate=LATCH, a=0.6), detector=watch),
    )  # fmt: skip
    return Plan() if i % 7 == 6 else choices[i % 6]


@cache
def prompts() -> list[tuple[int, ...]]:
    noise = torch.Generator().manual_seed(23)
    return [tuple(torch.randint(6, VOCAB_SIZE, (3 + 5 * i % 31,), generator=noise).tolist()) for i in range(ROWS)]


@cache
def requests() -> tuple[Request, ...]:
    """Gates fire at about half of the positions; some answers come in pairs with a plain one."""
    plans = [plan(i) for i in range(ROWS)]
    watching = [replace(p, mode="observe", trace="tokens") for p in plans]
    greedy = SamplingParams(6, temperature=0)
    answers = serve([Request(str(i), prompts()[i], greedy, p) for i, p in enumerate(watching)], deterministic=True)
    made = []
    for i, p in enumerate(plans):
        if p.detector is not None:
            p = with_threshold(p, separating_threshold([t.reading.drift for t in answers[str(i)].tokens if t.reading]))
        sampling = SamplingParams(12 + i % 4, temperature=i % 3 / 2, seed=i, logprobs=2)
        made.append(Request(str(i), prompts()[i], sampling, p, compare=i % 8 == 1))
    return tuple(made)


def serve(some: Sequence[Request], *, deterministic: bool, spied: list[Spy] | None = None) -> dict[str, Completion]:
    engine = Engine(model(), EngineConfig(max_rows=ROWS, context=64, prefill_tokens=512, deterministic=deterministic))
    if spied is not None:
        spied.append(Spy(engine))
    done = run_staggered(engine, some, every=0)
    engine.close()
    return done


def bits(completion: Completion) -> object:
    """Of a reading's lists only the first entry is there whatever the neighbours trace."""
    tokens = [t if t.reading is None else replace(t, reading=None) for t in completion.tokens]
    readings = [t.reading and (t.reading.drift, t.reading.early[0], t.reading.late[0]) for t in completion.tokens]
    return tokens, readings, completion.finish.receipt


@pytest.mark.parametrize("deterministic", MODES)
def test_a_mixed_batch_gives_each_request_what_it_gets_alone(deterministic: bool) -> None:
    spied: list[Spy] = []
    mixed = serve(requests(), deterministic=deterministic, spied=spied)
    assert spied[0].most_rows >= (ROWS // 2 if deterministic else ROWS)  # there a step reads one prompt
    assert spied[0].retries > 10
    for request in requests():
        for name, alone in serve([request], deterministic=deterministic).items():
            together = mixed[name]
            assert ids(together) == ids(alone), name
            if deterministic:
                assert bits(together) == bits(alone), name
            expected = [t.logprob for t in alone.tokens]
            assert [t.logprob for t in together.tokens] == pytest.approx(expected, abs=TOLERANCE), name
            tops = [sorted(t.top_logprobs) for t in together.tokens]
            for ours, theirs in zip(tops, [sorted(t.top_logprobs) for t in alone.tokens], strict=True):
                assert [p for _, p in ours] == pytest.approx([p for _, p in theirs], abs=TOLERANCE), name


def test_the_plans_change_their_answers_and_are_told_apart() -> None:
    mixed = serve(requests(), deterministic=True)
    plain = serve([replace(r, plan=Plan(), compare=False) for r in requests()], deterministic=True)
    steering = [r.id for r in requests() if r.plan.acts]
    moved = [n for n in steering if [t.logprob for t in mixed[n].tokens] != [t.logprob for t in plain[n].tokens]]
    assert len(moved) >= len(steering) - 2
    for request in requests():
        if not request.plan.acts:
            assert bits(mixed[request.id]) == bits(plain[request.id])


@pytest.mark.parametrize("deterministic", MODES)
def test_deltas_are_computed_once_however_many_profiles(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[int] = []
    add = Dose.add
    monkeypatch.setattr(Dose, "add", lambda self, h, to: (added.append(len(h)), add(self, h, to))[1])
    sampling = SamplingParams(4, temperature=0)
    for num_profiles in (1, ROWS):
        added.clear()
        own = [steered(correction(Set, model().layout, Site("attn_z", 2), seed=i)) for i in range(num_profiles)]
        some = [Request(str(i), (7 + i,), sampling, own[i % num_profiles]) for i in range(ROWS)]
        spied: list[Spy] = []
        serve(some, deterministic=deterministic, spied=spied)
        assert len(added) == len(spied[0].steps), "one for each step"
        assert spied[0].most_rows >= 4


def operators(engine: Engine, some: Sequence[Request]) -> list[str]:
    """Of all steps, in order."""
    for request in some:
        engine.add(request)
    events = []
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        while engine.has_work:
            events += engine.step()
    assert len(gather(events)) == len(some)
    return [event.name for event in recorded.events() if event.name.startswith("aten::")]


def test_off_runs_the_very_operators_of_a_model_without_hooks() -> None:
    sampling = SamplingParams(4, temperature=0)
    off = [Request(r.id, r.prompt_ids, sampling, replace(r.plan, mode="off")) for r in requests()[:6]]
    on = [replace(r, plan=replace(r.plan, mode="on")) for r in off]
    engine = Engine(model(), EngineConfig(max_rows=6, context=64))
    present, steering = operators(engine, off), operators(engine, on)
    engine._runner._hooks.remove()
    bare = operators(engine, [replace(r, plan=Plan()) for r in off])
    engine.close()
    assert present == bare
    assert len(steering) > len(bare) > 100
