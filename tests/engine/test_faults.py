"""What goes wrong in one request stays in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch

from steering.correction import Correction
from steering.edit import Set, Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.errors import (
    EngineFailure,
    InvalidRequest,
    NumericalError,
    OverMemoryBudget,
)
from steering.gate import Gate, Phase
from steering.lens import LogitLens
from steering.model.attention import SlotKV
from steering.model.loading import LanguageModel
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import drain, gather, ids, kv_tensors, logprobs
from tests.models import VOCAB_SIZE, endless_model, tiny_model
from tests.plans import BOTH, COMPLETION, DRIFT, PROMPT, correction, steered

GREEDY = SamplingParams(8, temperature=0, logprobs=0)
MODES = [pytest.param(False, id="default"), pytest.param(True, id="deterministic")]


@cache
def model() -> LanguageModel:
    return endless_model()


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    noise = torch.Generator().manual_seed(100 * seed + length)
    return tuple(torch.randint(6, VOCAB_SIZE, (length,), generator=noise).tolist())


def config(*, deterministic: bool = False, max_rows: int = 4) -> EngineConfig:
    return EngineConfig(max_rows=max_rows, context=64, prefill_tokens=8, queue=4, deterministic=deterministic)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(model(), config())
    yield engine
    engine.close()


def overflowing(phases: frozenset[Phase], layer: int = 1) -> Plan:
    """10 * 3e38 is infinite in float32, and infinity becomes NaN in the next norm."""
    push = Correction("push", Site("resid_post", layer), Shift(torch.full((64,), 3e38)), Gate(phases=phases), 10.0)
    return steered(push)


def alone(request: Request, *, deterministic: bool) -> Completion:
    engine = Engine(model(), config(deterministic=deterministic))
    answer = engine.generate([request])[0]
    engine.close()
    return answer


def check_equal(answer: Completion, expected: Completion, *, deterministic: bool) -> None:
    assert ids(answer) == ids(expected)
    tolerance = 0.0 if deterministic else 1e-4
    assert logprobs(answer) == pytest.approx(logprobs(expected), abs=tolerance, rel=0)


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("phases", [COMPLETION, PROMPT, BOTH], ids=["completion", "prompt", "both"])
@pytest.mark.parametrize("layer", [0, 3])
def test_T16_a_row_that_overflows_ends_alone(phases: frozenset[Phase], layer: int, deterministic: bool) -> None:
    engine = Engine(model(), config(deterministic=deterministic))
    neighbours = [Request(f"n{i}", prompt(9 + i), GREEDY) for i in range(3)]
    broken = Request("broken", prompt(20), GREEDY, overflowing(phases, layer))
    done = {a.request_id: a for a in engine.generate([neighbours[0], broken, *neighbours[1:]])}
    engine.close()
    finish = done["broken"].finish
    assert finish.reason == "error"
    assert isinstance(finish.error, NumericalError)
    assert done["broken"].tokens == ()
    for request in neighbours:
        check_equal(done[request.id], alone(request, deterministic=deterministic), deterministic=deterministic)


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("phases", [COMPLETION, PROMPT], ids=["completion", "prompt"])
def test_C4_the_slot_of_a_broken_row_is_clean_for_the_next(phases: frozenset[Phase], deterministic: bool) -> None:
    engine = Engine(model(), config(deterministic=deterministic, max_rows=1))
    clean = Request("clean", prompt(6), GREEDY)
    broken = [Request(f"b{i}", prompt(30, i), GREEDY, overflowing(phases)) for i in range(2)]
    done = engine.generate([broken[0], clean, broken[1], replace(clean, id="again")])
    engine.close()
    assert [a.finish.reason for a in done] == ["error", "length", "error", "length"]
    for answer in (done[1], done[3]):
        check_equal(answer, alone(clean, deterministic=deterministic), deterministic=deterministic)


@pytest.mark.parametrize("how", ["abort", "move"])
def test_C4_a_half_filled_prompt_that_overflows_leaves_nothing_behind(engine: Engine, how: str) -> None:
    """Its non-finite keys must not wait in a slot: neither when it is aborted there nor when it moves elsewhere."""
    short = replace(GREEDY, max_tokens=2)
    if how == "move":
        engine.add(Request("short", prompt(2), short))
    engine.add(Request("broken", prompt(40), GREEDY, overflowing(PROMPT)))
    events = engine.step() + engine.step()
    if how == "abort":
        engine.abort("broken")
    others = [Request(str(i), prompt(3, i), GREEDY) for i in range(4)]
    for request in others:
        engine.add(request)
    done = gather(events + drain(engine))
    for request in others:
        check_equal(done[request.id], alone(request, deterministic=False), deterministic=False)
    assert all(cache_.isfinite().all() for cache_ in kv_tensors(engine))


def test_an_overflow_behind_a_gate_ends_the_retry(engine: Engine) -> None:
    push = Correction("push", Site("resid_post", 1), Shift(torch.full((64,), 3e38)), DRIFT, 10.0)
    plan = steered(push, detector=Detector(LogitLens(1), -1.0))
    answer, other = engine.generate([Request("a", prompt(5), GREEDY, plan), Request("b", prompt(6), GREEDY)])
    assert isinstance(answer.finish.error, NumericalError)
    assert len(other.tokens) == 8


def test_float16_rows_with_large_sums_are_healthy() -> None:
    """Ordinary logits whose sum over the vocabulary exceeds 65504."""
    half = tiny_model()
    half.hf.half()
    with torch.no_grad():
        half.hf.lm_head.weight.copy_(50.0 + half.hf.lm_head.weight)
        sums = [half.hf(torch.tensor([prompt(5, i)])).logits[0, -1].sum() for i in range(4)]
    assert any(total.isinf() for total in sums)
    engine = Engine(half, config())
    answers = engine.generate([Request(str(i), prompt(5, i), GREEDY) for i in range(4)])
    engine.close()
    assert {answer.finish.error for answer in answers} == {None}


def test_X7_a_forward_that_raises_ends_its_rows_and_the_engine_goes_on(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(4):
        engine.add(Request(str(i), prompt(5 + 3 * i), GREEDY))
    events = [event for _ in range(4) for event in engine.step()]
    running, waiting = engine.num_running, engine.num_waiting
    assert running > 1

    def boom(*_: object) -> None:
        raise RuntimeError("out of everything")

    handle = model().hf.model.layers[2].register_forward_pre_hook(boom)
    with caplog.at_level(logging.ERROR):
        failed = engine.step()
    handle.remove()
    assert "a step failed" in caplog.text
    assert len(failed) == running
    assert all(isinstance(e.finish.error, EngineFailure) for e in failed if e.finish)
    assert "out of everything" not in str(failed[0].finish and failed[0].finish.error)
    assert engine.num_waiting <= waiting
    done = gather(events + failed + drain(engine))
    assert len(done) == 4
    assert (engine.free_rows, engine.has_work) == (4, False)
    fresh = Request("fresh", prompt(12), GREEDY)
    check_equal(engine.generate([fresh])[0], alone(fresh, deterministic=False), deterministic=False)


def test_a_failed_step_leaves_no_nan_in_any_slot(engine: Engine) -> None:
    """All slots of the step are wiped before rows move to fill the holes."""
    for i in range(3):
        engine.add(Request(str(i), prompt(4, i), GREEDY))
    engine.step()

    def poison(*_: object) -> None:
        for cache_ in kv_tensors(engine):
            cache_[: engine.num_running, :8] = torch.nan
        raise RuntimeError

    handle = model().hf.model.layers[0].register_forward_pre_hook(poison)
    engine.step()
    handle.remove()
    assert all(cache_.isfinite().all() for cache_ in kv_tensors(engine))


def test_abort_frees_everything(engine: Engine) -> None:
    plan = steered(
        correction(Set, model().layout, Site("attn_z", 1), gate=DRIFT), detector=Detector(LogitLens(1), -1.0)
    )
    engine.add(Request("retrying", prompt(2), GREEDY, plan))
    engine.add(Request("decoding", prompt(2), GREEDY))
    events = [event for _ in range(3) for event in engine.step()]
    engine.add(Request("in its prompt", prompt(40), GREEDY))
    events += engine.step()
    for name in ("waiting", "too"):
        engine.add(Request(name, prompt(4), GREEDY))
    assert (engine.num_running, engine.num_waiting) == (3, 2)
    assert engine._under_way["retrying"][0].retrying
    for name in ("retrying", "waiting", "in its prompt", "decoding", "too", "unknown", "decoding"):
        engine.abort(name)
    assert (engine.num_running, engine.num_waiting, engine.free_rows) == (0, 0, 4)
    assert engine.has_work, "the terminal events are still to come"
    done = gather(events + engine.step())
    assert not engine.has_work
    assert {a.finish.reason for a in done.values()} == {"abort"}
    assert len(done) == 5
    assert engine.step() == []


def test_an_id_is_free_again_after_its_end(engine: Engine) -> None:
    first = engine.generate([Request("a", prompt(4), GREEDY)])[0]
    assert engine.generate([Request("a", prompt(4), GREEDY)])[0].tokens == first.tokens
    engine.add(Request("a", prompt(4), GREEDY))
    with pytest.raises(InvalidRequest, match="in use"):
        engine.add(Request("a", prompt(5), GREEDY))
    assert len(drain(engine)) == 8


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("message", [None, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"])
def test_X8_a_step_without_memory_sheds_load_and_nobody_notices(message: str | None, deterministic: bool) -> None:
    error = torch.OutOfMemoryError() if message is None else RuntimeError(message)
    engine = Engine(model(), config(deterministic=deterministic))
    requests = [Request(str(i), prompt(5 + i), GREEDY) for i in range(4)]
    for request in requests:
        engine.add(request)
    events = [event for _ in range(8) for event in engine.step()]
    running, budget = engine.num_running, [2]

    def boom(*_: object) -> None:
        budget[0] -= 1
        if budget[0] >= 0:
            raise error

    handle = model().hf.model.layers[2].register_forward_pre_hook(boom)
    assert engine.step() == [] and engine.num_running < running
    done = gather(events + drain(engine))
    handle.remove()
    engine.close()
    assert engine.num_preemptions > 0
    for request in requests:
        check_equal(done[request.id], alone(request, deterministic=deterministic), deterministic=deterministic)


def test_X8_an_answer_that_has_no_memory_though_alone_ends(engine: Engine) -> None:
    def boom(*_: object) -> None:
        if engine.num_running == 1 and engine._scheduler.running[0].request.id == "big":
            raise MemoryError

    handle = model().hf.model.layers[0].register_forward_pre_hook(boom)
    answers = engine.generate([Request("big", prompt(9), GREEDY), Request("small", prompt(4), GREEDY)])
    alone_ = engine.generate([Request("big", prompt(9), GREEDY)])
    handle.remove()
    assert isinstance(alone_[0].finish.error, OverMemoryBudget)
    check_equal(answers[1], alone(Request("small", prompt(4), GREEDY), deterministic=False), deterministic=False)


def test_X8_a_machine_with_less_memory_than_the_budget_says(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No slot can be made: the first that waits ends with an error, and not the engine."""

    def no_memory(self: SlotKV, slots: int) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(SlotKV, "resize", no_memory)
        answers = engine.generate([Request(str(i), prompt(4), GREEDY) for i in range(2)])
    assert all(isinstance(answer.finish.error, OverMemoryBudget) for answer in answers)
    assert len(engine.generate([Request("a", prompt(4), GREEDY)])[0].tokens) == 8
