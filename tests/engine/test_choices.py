"""Several answers to one prompt: each is what a request of its own would get, and the prompt is computed once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch

from steering.correction import Correction
from steering.edit import Scale, Set, Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.errors import EngineFailure, InvalidRequest, NumericalError, QueueFull, ValueOutOfRange
from steering.gate import Gate
from steering.model.loading import LanguageModel, wrap
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import Spy, drain, gather, ids, logprobs
from tests.models import VOCAB_SIZE, endless_model, sentencepiece_tokenizer, tiny_hf
from tests.plans import BOTH, DRIFT, LATCH, PROMPT, contrast, correction, steered, tuned_lens

DRAWN = SamplingParams(9, temperature=1.2, top_p=0.95, seed=7, logprobs=2)
GREEDY = replace(DRAWN, temperature=0.0)
MODES = [pytest.param(False, id="default"), pytest.param(True, id="deterministic")]


@cache
def model() -> LanguageModel:
    return endless_model()


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    noise = torch.Generator().manual_seed(100 * seed + length)
    return tuple(torch.randint(6, VOCAB_SIZE, (length,), generator=noise).tolist())


@cache
def plans() -> dict[str, Plan]:
    layout = model().layout
    detector = Detector(tuned_lens(layout, 1), 0.05)
    push = correction(Shift, layout, Site("resid_post", 1), gate=Gate(phases=BOTH))
    patch = correction(Set, layout, Site("attn_z", 1), gate=DRIFT)
    mask = correction(Scale, layout, Site("mlp_act", 2), gate=LATCH)
    return {
        "off": Plan(),
        "always": steered(correction(Shift, layout, Site("resid_post", 1))),
        "gated": steered(patch, mask, detector=detector, trace=True),
        "contrast": steered(contrast(gate=DRIFT), detector=detector),
        "prompt": steered(push, patch, detector=detector),
    }


def config(*, deterministic: bool = False, max_rows: int = 5, queue: int = 4) -> EngineConfig:
    return EngineConfig(max_rows=max_rows, context=96, prefill_tokens=16, queue=queue, deterministic=deterministic)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(model(), config())
    yield engine
    engine.close()


def solo(request: Request, *, deterministic: bool) -> Completion:
    engine = Engine(model(), config(deterministic=deterministic))
    answer = engine.generate([request])[0]
    engine.close()
    return answer


def check(answer: Completion, expected: Completion, *, deterministic: bool) -> None:
    """Bit for bit, receipt and readings too; in default mode within the stated tolerance."""
    assert ids(answer) == ids(expected) and answer.text == expected.text
    assert answer.finish.reason == expected.finish.reason
    if deterministic:
        assert answer.tokens == expected.tokens and answer.finish == expected.finish
    else:
        assert logprobs(answer) == pytest.approx(logprobs(expected), abs=1e-4)


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("length", [1, 50])
@pytest.mark.parametrize("name", ["off", "always", "gated", "contrast", "prompt"])
def test_C1_answer_i_is_that_of_seed_plus_i(name: str, length: int, deterministic: bool) -> None:
    """Among neighbours, more answers than rows, the prompt in several chunks."""
    engine = Engine(model(), config(deterministic=deterministic))
    request = Request("many", prompt(length), DRAWN, plans()[name], n=7)
    neighbours = [Request(f"n{i}", prompt(20 + i), replace(GREEDY, max_tokens=3 + i)) for i in range(3)]
    answers = engine.generate([neighbours[0], request, *neighbours[1:]])
    engine.close()
    assert [(a.request_id, a.index) for a in answers[1:8]] == [("many", i) for i in range(7)]
    for i in (0, 1, 6):
        alone = replace(request, n=1, sampling=replace(DRAWN, seed=7 + i))
        check(answers[1 + i], solo(alone, deterministic=deterministic), deterministic=deterministic)
    assert engine.prompt_tokens_computed == length - 1 + 19 + 20 + 21
    assert len({tuple(ids(a)) for a in answers[1:8]}) > 4, "the seeds draw alike"


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("name", ["always", "gated", "contrast", "prompt"])
def test_compare_is_on_beside_off(name: str, sampling: SamplingParams, deterministic: bool) -> None:
    plan = plans()[name]
    engine = Engine(model(), config(deterministic=deterministic))
    request = Request("both", prompt(40), sampling, plan, compare=True)
    on, off = engine.generate([request])
    engine.close()
    check(on, solo(replace(request, compare=False), deterministic=deterministic), deterministic=deterministic)
    measured = replace(plan, mode="observe") if name == "gated" else Plan(trace=plan.trace)  # `gated` traces tokens
    expected, plain = (
        solo(Request("both", prompt(40), sampling, beside), deterministic=deterministic)
        for beside in (measured, Plan())
    )
    assert ids(expected) == ids(plain) and (expected.tokens[0].reading is not None) == (name == "gated")
    check(off, replace(expected, index=1), deterministic=deterministic)
    assert (on.index, off.index) == (0, 1)
    assert ids(on) != ids(off) and on.finish.receipt.applied and not off.finish.receipt.applied
    assert request.shares_prompt == (name != "prompt")
    assert engine.prompt_tokens_computed == (39 if request.shares_prompt else 78)


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("name", ["always", "gated", "contrast", "prompt"])
def test_T17_strength_0_is_off_for_every_answer(name: str, deterministic: bool) -> None:
    """Bit for bit in either mode, with penalties and a scored prompt; a plan that does nothing shares its prompt."""
    zero = replace(plans()[name], strength=0.0, trace="off")
    sampling = replace(DRAWN, frequency_penalty=0.7, logit_bias=((9, 2.0),), prompt_logprobs=2)

    def said(request: Request) -> list[object]:
        engine = Engine(model(), config(deterministic=deterministic))
        answers = engine.generate([request])
        engine.close()
        assert engine.prompt_tokens_computed == 29
        assert not any(a.finish.receipt.applied for a in answers)
        return [(a.prompt, [(t.id, t.logprob, t.top_logprobs) for t in a.tokens]) for a in answers]

    off = said(Request("a", prompt(30), sampling, n=3))
    assert said(Request("a", prompt(30), sampling, zero, n=3)) == off
    both = said(Request("a", prompt(30), sampling, zero, compare=True))
    assert both == said(Request("a", prompt(30), sampling, compare=True))
    assert both == [off[0], off[0]] or not deterministic  # else two rows may differ from three in their last bits


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("max_rows", [1, 2, 3])
def test_a_prompt_is_computed_once_however_few_rows_there_are(max_rows: int, deterministic: bool) -> None:
    engine = Engine(model(), config(deterministic=deterministic, max_rows=max_rows))
    spy = Spy(engine)
    answers = engine.generate([Request("many", prompt(50), DRAWN, n=16)])
    engine.close()
    assert engine.prompt_tokens_computed == 49 == sum(length for s in spy.steps for _, _, length in s.chunks)
    assert len(spy.shares) == max_rows - 1 and all(length == 49 for _, _, length in spy.shares)
    for i in (0, 15):
        alone = Request("many", prompt(50), replace(DRAWN, seed=7 + i))
        check(answers[i], replace(solo(alone, deterministic=deterministic), index=i), deterministic=deterministic)


def test_answers_differ_in_nothing_but_their_numbers() -> None:
    request = Request("a", prompt(5), DRAWN, plans()["gated"], n=3)
    assert [choice.sampling.seed for choice in request.choices] == [7, 8, 9]
    assert {choice.n for choice in request.choices} == {1}
    last = replace(request, sampling=replace(DRAWN, seed=2**64 - 1))
    assert [choice.sampling.seed for choice in last.choices] == [2**64 - 1, 0, 1]
    on, off = replace(request, n=1, compare=True).choices
    assert on.sampling == off.sampling and off.plan == replace(on.plan, mode="observe")


@pytest.mark.parametrize("deterministic", MODES)
def test_C5_a_request_of_many_leaves_and_the_others_stay_exact(deterministic: bool) -> None:
    """Aborted in its prompt, while its first answer runs, and while some answers still wait."""
    others = [Request(f"n{i}", prompt(9 + i), replace(DRAWN, seed=i), plans()["gated"]) for i in range(3)]
    for steps in (1, 4, 8):
        engine = Engine(model(), config(deterministic=deterministic))
        engine.add(others[0])
        engine.add(Request("many", prompt(50), DRAWN, plans()["always"], n=6))
        for request in others[1:]:
            engine.add(request)
        events = [event for _ in range(steps) for event in engine.step()]
        engine.abort("many")
        engine.abort("many")
        done = gather(events + drain(engine))
        engine.close()
        ends = [done[name].finish for name in done if name.startswith("many")]
        assert len(ends) == 6 and {end.reason for end in ends} == {"abort"}
        assert (engine.free_rows, engine.num_waiting, engine.has_work) == (5, 0, False)
        for request in others:
            check(done[request.id], solo(request, deterministic=deterministic), deterministic=deterministic)


def test_a_finished_answer_does_not_end_its_siblings(engine: Engine) -> None:
    full = engine.generate([Request("a", prompt(6), DRAWN, n=4)])
    stop = next(i for i in ids(full[2])[1:4] if all(i not in ids(full[k]) for k in (0, 1, 3)))
    done = engine.generate([Request("a", prompt(6), replace(DRAWN, stop_token_ids=(stop,)), n=4)])
    assert [a.finish.reason for a in done] == ["length", "length", "stop", "length"]
    assert ids(done[2]) == ids(full[2])[: ids(full[2]).index(stop)]
    assert [ids(done[k]) for k in (0, 1, 3)] == [ids(full[k]) for k in (0, 1, 3)]


def test_O1_all_answers_of_a_request_are_taken_or_none(engine: Engine) -> None:
    for i in range(4):
        engine.add(Request(str(i), prompt(4), GREEDY, n=16))
    assert engine.num_waiting == 64
    with pytest.raises(QueueFull):
        engine.add(Request("late", prompt(4), GREEDY, n=2))
    with pytest.raises(InvalidRequest, match="in use"):
        engine.add(Request("0", prompt(4), GREEDY))
    assert engine.num_waiting == 64
    assert len(gather(drain(engine))) == 64


def test_T16_answers_that_overflow_end_each_with_one_error_and_nobody_takes_their_prompt(engine: Engine) -> None:
    push = Correction("push", Site("resid_post", 1), Shift(torch.full((64,), 3e38)), Gate(phases=PROMPT), 10.0)
    neighbour = Request("n", prompt(9), GREEDY)
    broken = Request("broken", prompt(30), GREEDY, steered(push), n=3)
    answers = engine.generate([neighbour, broken])
    assert all(isinstance(a.finish.error, NumericalError) for a in answers[1:])
    check(answers[0], solo(neighbour, deterministic=False), deterministic=False)
    compared = engine.generate([replace(broken, n=1, compare=True)])
    assert isinstance(compared[0].finish.error, NumericalError)
    check(
        compared[1], replace(solo(replace(broken, plan=Plan(), n=1), deterministic=False), index=1), deterministic=False
    )


def test_T16_an_answer_that_overflows_alone_leaves_the_others_their_prompt(engine: Engine) -> None:
    """The steered one of two dies at its first token; the plain one computes the prompt anew, or had it already."""
    push = Correction("push", Site("resid_post", 1), Shift(torch.full((64,), 3e38)), Gate(), 10.0)
    for max_rows in (1, 2):
        engine = Engine(model(), config(max_rows=max_rows))
        on, off = engine.generate([Request("both", prompt(30), GREEDY, steered(push), compare=True)])
        engine.close()
        assert isinstance(on.finish.error, NumericalError) and on.tokens == ()
        check(off, replace(solo(Request("x", prompt(30), GREEDY), deterministic=False), index=1), deterministic=False)


def test_X7_a_step_that_fails_ends_the_answers_it_ran_and_the_rest_starts_afresh(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.add(Request("many", prompt(20), GREEDY, n=8))
    events = [event for _ in range(4) for event in engine.step()]
    assert engine.num_running == 5

    def boom(*_: object) -> None:
        raise RuntimeError

    handle = model().hf.model.layers[2].register_forward_pre_hook(boom)
    with caplog.at_level(logging.CRITICAL):
        events += engine.step()
    handle.remove()
    done = gather(events + drain(engine))
    failed = [a for a in done.values() if isinstance(a.finish.error, EngineFailure)]
    assert len(done) == 8 and len(failed) == 5
    expected = solo(Request("x", prompt(20), GREEDY), deterministic=False)
    for answer in done.values():
        if answer not in failed:
            check(answer, expected, deterministic=False)
    assert engine.prompt_tokens_computed == 2 * 19


@pytest.mark.parametrize("n", [0, -1, 17, 2**31])
def test_S3_n_is_bounded_before_anything_is_made(n: int) -> None:
    with pytest.raises(ValueOutOfRange, match="between 1 and 16") as caught:
        Request("a", prompt(4), GREEDY, n=n)
    assert caught.value.param == "n"


def test_S3_compare_has_two_answers_and_no_n() -> None:
    with pytest.raises(InvalidRequest, match="n must be 1") as caught:
        Request("a", prompt(4), GREEDY, plans()["always"], n=2, compare=True)
    assert caught.value.param == "n"


def test_an_answer_that_continues_a_text_keeps_the_space_it_begins_with() -> None:
    """Of a SentencePiece tokenizer, which drops the first space of a text: an answer of its own begins a text."""
    tokenizer = sentencepiece_tokenizer()
    spaced = replace(wrap(tiny_hf(vocab_size=400), tokenizer, "pieces"), stop_ids=frozenset())
    (piece,) = tokenizer.convert_tokens_to_ids(["▁is"])
    engine = Engine(spaced, EngineConfig(max_rows=2, context=64))
    sampling = SamplingParams(2, temperature=0, logit_bias=((piece, 100.0),))
    begun, continued = engine.generate([Request("a", (5, 6), sampling), Request("b", (5, 6), sampling, continues=True)])
    engine.close()
    assert begun.text == "is is" and continued.text == " is is"
