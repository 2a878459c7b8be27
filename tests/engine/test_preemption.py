"""Rows that outgrow the memory wait and go on as if nothing had been: no token lost, none told twice, gates as they
stood."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from steering.edit import Scale, Set, Shift
from steering.engine import kv_size, memory, prefix_cache
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.gate import Gate
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import Spy, drain, gather, ids, logprobs
from tests.engine.test_faults import model, prompt
from tests.plans import (
    BOTH,
    DRIFT,
    LATCH,
    correction,
    steered,
    tuned,
    tuned_lens,
    with_threshold,
)

LONG = SamplingParams(70, temperature=0, logprobs=0)


@cache
def requests() -> tuple[Request, ...]:
    """A plain one, one that is steered throughout, gates that open now and then or stay open, changed weights, a scored
    prompt and one that is drawn."""
    layout = model().layout
    push = correction(Shift, layout, Site("resid_post", 1), gate=Gate(phases=BOTH))
    late = correction(Shift, layout, Site("resid_post", 2))
    patch = correction(Set, layout, Site("attn_z", 2), gate=DRIFT)
    mask = correction(Scale, layout, Site("mlp_act", 2), gate=LATCH)
    detector = Detector(tuned_lens(layout, 1), 0.5)
    gated = [_halfway(2, steered(patch, detector=detector)), _halfway(3, steered(mask, detector=detector))]
    plans = [Plan(), steered(push, late), *gated, steered(tuned(layout, layers=(1,))), Plan(), Plan()]
    samplings = [LONG] * 5 + [replace(LONG, prompt_logprobs=1), replace(LONG, temperature=1.1, seed=5)]
    return tuple(
        Request(str(i), prompt(20 + i), sampling, plan)
        for i, (plan, sampling) in enumerate(zip(plans, samplings, strict=True))
    )


def _halfway(index: int, plan: Plan) -> Plan:
    """With a threshold that positions pass, but none of the first ones."""
    engine = Engine(model(), EngineConfig(max_rows=1, context=128))
    watching = replace(plan, mode="observe", trace="tokens")
    (answer,) = engine.generate([Request("a", prompt(20 + index), LONG, watching)])
    engine.close()
    drifts = [token.reading.drift for token in answer.tokens if token.reading]
    highest = max(drifts[:6])
    return with_threshold(plan, (highest + min(drift for drift in drifts if drift > highest)) / 2)


@cache
def alone(index: int) -> Completion:
    engine = Engine(model(), EngineConfig(max_rows=1, context=128, prefix_cache=0))
    (answer,) = engine.generate([requests()[index]])
    engine.close()
    return answer


@pytest.mark.parametrize("cached", [0, None])
@pytest.mark.parametrize("positions", [128, 200, 320])
def test_preempted_answers_equal_those_alone(
    positions: int, cached: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_size, "SHORTEST", 16)
    token = model().layout.kv_bytes_per_token(model().dtype)
    engine = Engine(
        model(),
        EngineConfig(max_rows=7, context=128, prefill_tokens=24, kv_memory=positions * token, prefix_cache=cached),
    )
    spy = Spy(engine)
    for request in requests():
        engine.add(request)
    events = drain(engine)
    engine.close()
    assert engine.num_preemptions >= 2
    order = [event.request_id for event in events if event.finish]
    assert order[0] == "0", "the first one is never preempted for others"
    assert any(start >= len(requests()[int(name)].prompt_ids) for s in spy.steps for name, start, _ in s.chunks)
    for name, answer in gather(events).items():
        expected = alone(int(name))
        assert (ids(answer), answer.text) == (ids(expected), expected.text)
        assert logprobs(answer) == pytest.approx(logprobs(expected), abs=1e-4)
        assert len(answer.prompt) == len(expected.prompt)
        receipt, other = answer.finish.receipt, expected.finish.receipt
        assert replace(receipt, max_drift=None) == replace(other, max_drift=None)


@pytest.mark.parametrize(("index", "hits"), [(0, 72), (1, 16), (2, 16), (3, 16), (4, 80), (6, 80)])
def test_what_is_computed_again_may_come_from_the_cache(index: int, hits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answer was given before: its prompt is kept, and the rest where the plan steers it like the prompt."""
    monkeypatch.setattr(prefix_cache, "BLOCK", 8)
    monkeypatch.setattr(memory, "BLOCK", 8)
    engine, request = Engine(model(), EngineConfig(max_rows=2, context=128, prefix_cache=2**19)), requests()[index]
    engine.generate([request])
    engine.add(replace(request, id="again"))
    (sequence,) = engine._under_way["again"]
    events = []
    while sequence.num_generated < 60:
        events += engine.step()
    before = engine.prefix_cache.hits
    engine._scheduler.preempt(sequence)
    (answer,) = gather(events + drain(engine)).values()
    engine.close()
    assert engine.prefix_cache.hits - before == hits
    assert (ids(answer), answer.text) == (ids(alone(index)), alone(index).text)
    assert logprobs(answer) == pytest.approx(logprobs(alone(index)), abs=1e-4)


def test_what_is_compared_is_worth_it() -> None:
    """Gates open at some positions and not at others."""
    receipts = [alone(i).finish.receipt for i in range(len(requests()))]
    assert 0 < receipts[2].fired_tokens < 70 and receipts[3].at not in (None, 0)
    assert alone(5).prompt and len({tuple(ids(alone(i))) for i in range(7)}) == 7


def test_a_chunk_that_computes_an_answer_again_gives_each_position_what_it_had() -> None:
    engine = Engine(model(), EngineConfig(max_rows=1, context=128))
    engine.add(requests()[2])
    (sequence,) = engine._under_way["2"]
    stood = []
    while engine.has_work and sequence.num_generated < 60:
        before, openness = sequence.num_generated, sequence.openness
        engine.step()
        stood += [openness] * (sequence.num_generated - before)
    engine.close()
    assert len(set(stood)) == 2
    first, parts = sequence.num_prompt - 1, sequence.runs(3, sequence.num_computed)
    assert parts[0] == ("prompt", "shut", 3, first)
    told = [openness for _, openness, start, end in parts[1:] for _ in range(start, end)]
    assert told == stood and [p[2] for p in parts[1:]] == [p[3] for p in parts[:-1]]
    assert sequence.runs(first + 5, first + 6) == [("completion", stood[5], first + 5, first + 6)]
