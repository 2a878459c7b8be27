"""Where steering does not act, nothing changes: bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers import PreTrainedModel

from steering.edit import Project, Scale, Set, Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.gate import Gate
from steering.model.loading import LanguageModel
from steering.plan import Detector, Mode, Plan
from steering.site import Site
from tests.engine.spy import Spy, ids, logprobs
from tests.models import VOCAB_SIZE, endless_model, tiny_hf
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

MAX_TOKENS = 12
GREEDY = SamplingParams(MAX_TOKENS, temperature=0, logprobs=4)
DRAWN = SamplingParams(MAX_TOKENS, temperature=1.0, top_p=0.95, seed=11, logprobs=4)
MODES = [pytest.param(False, id="default"), pytest.param(True, id="deterministic")]


@cache
def model() -> LanguageModel:
    """Without stop ids, so that all answers have one length and batches one composition."""
    return endless_model()


@cache
def prompts() -> list[tuple[int, ...]]:
    noise = torch.Generator().manual_seed(17)
    return [tuple(torch.randint(6, VOCAB_SIZE, (n,), generator=noise).tolist()) for n in (21, 5, 40, 13, 30, 9)]


@cache
def plans() -> dict[str, Plan]:
    """Of each kind one, on; their gates fire at about half of the positions."""
    layout = model().layout
    watching = Plan(mode="observe", detector=Detector(tuned_lens(layout, 1), 0.5), trace="tokens")
    answers = serve(batch(watching), deterministic=True)
    drifts = [t.reading.drift for answer in answers for t in answer.tokens if t.reading]
    detector = Detector(tuned_lens(layout, 1), separating_threshold(drifts))
    push = correction(Shift, layout, Site("resid_post", 1), gate=Gate(phases=BOTH))
    patch = correction(Set, layout, Site("attn_z", 1), gate=DRIFT)
    mask = correction(Scale, layout, Site("mlp_act", 2), gate=LATCH)
    erase = correction(Project, layout, Site("resid_post", 3))
    return {
        "always": steered(push, erase),
        "drift": steered(patch, detector=detector, trace=True),
        "latch": steered(mask, detector=detector),
        "contrast": steered(contrast(), detector=detector),
        "dola": steered(dola(0, 1, 3)),
        "weights": steered(tuned(layout)),
        "all": steered(
            push,
            patch,
            mask,
            erase,
            contrast(0.01, gate=DRIFT),
            dola(1, 2, gate=LATCH, a=0.5),
            tuned(layout, strength=0.5),
            detector=detector,
        ),
    }


PLAN_NAMES = ("always", "drift", "latch", "contrast", "dola", "weights", "all")


def serve(requests: Sequence[Request], *, deterministic: bool, max_rows: int = 6) -> list[Completion]:
    engine = Engine(model(), EngineConfig(max_rows=max_rows, context=96, deterministic=deterministic))
    answers = engine.generate(requests)
    engine.close()
    return answers


def batch(plan: Plan, *, rows: Iterable[int] = range(6), sampling: SamplingParams = GREEDY) -> list[Request]:
    """Six unsteered requests, those in `rows` under the plan."""
    chosen = set(rows)
    return [Request(str(i), p, sampling, plan if i in chosen else Plan()) for i, p in enumerate(prompts())]


def said(answers: Iterable[Completion]) -> list[object]:
    """Tokens with all their log-probabilities; equal iff every bit is."""
    return [[(t.id, t.logprob, t.top_logprobs) for t in answer.tokens] for answer in answers]


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("name", PLAN_NAMES)
def test_T17_strength_0_is_off(name: str, sampling: SamplingParams, deterministic: bool) -> None:
    off = said(serve(batch(Plan(), sampling=sampling), deterministic=deterministic))
    zero = replace(plans()[name], strength=0.0)
    answers = serve(batch(zero, sampling=sampling), deterministic=deterministic)
    assert said(answers) == off
    assert not any(a.finish.receipt.applied or a.finish.receipt.steered_tokens for a in answers)
    assert said(serve(batch(plans()[name], sampling=sampling), deterministic=deterministic)) != off


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("mode", ["observe", "off"])
@pytest.mark.parametrize("name", PLAN_NAMES)
def test_observe_and_off_change_nothing(name: str, mode: Mode, deterministic: bool) -> None:
    watching = replace(plans()[name], mode=mode)
    answers = serve(batch(watching), deterministic=deterministic)
    assert said(answers) == said(serve(batch(Plan()), deterministic=deterministic))
    readings = [t.reading for a in answers for t in a.tokens if t.reading]
    assert bool(readings) == (mode == "observe" and watching.detector is not None)
    assert not any(r.late_steered for r in readings)


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("name", PLAN_NAMES)
def test_C3_unsteered_rows_do_not_feel_their_neighbours(name: str, deterministic: bool) -> None:
    off = said(serve(batch(Plan()), deterministic=deterministic))
    mixed = said(serve(batch(plans()[name], rows=(1, 3, 4)), deterministic=deterministic))
    assert [mixed[i] for i in (0, 2, 5)] == [off[i] for i in (0, 2, 5)]
    assert all(mixed[i] != off[i] for i in (1, 3, 4))


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("name", ["drift", "latch"])
def test_a_shut_gate_leaves_its_row_alone(name: str, deterministic: bool) -> None:
    off = said(serve(batch(Plan()), deterministic=deterministic))
    answers = serve(batch(with_threshold(plans()[name], 1.0)), deterministic=deterministic)
    assert said(answers) == off
    for answer in answers:
        assert not answer.finish.receipt.applied
        assert answer.finish.receipt.fired_tokens == 0
        assert 0.0 < (answer.finish.receipt.max_drift or 0.0) < 1.0


@pytest.mark.parametrize("name", ["drift", "latch"])
def test_until_the_gate_first_fires_the_answer_is_off(name: str) -> None:
    off = said(serve(batch(Plan()), deterministic=True))
    watching = serve(batch(replace(plans()[name], mode="observe", trace="tokens")), deterministic=True)
    drifts = [t.reading.drift for a in watching for t in a.tokens if t.reading]
    answers = serve(batch(with_threshold(plans()[name], separating_threshold(drifts, 0.1))), deterministic=True)
    fired = 0
    for answer, plain in zip(answers, off, strict=True):
        at = answer.finish.receipt.at
        assert isinstance(plain, list)
        assert said([answer])[0][:at] == plain[:at]  # type: ignore[index]
        fired += at is not None and at > 0 and said([answer])[0] != plain
    assert fired > 1


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_order_does_not_matter(name: str) -> None:
    requests = batch(plans()[name], rows=(1, 3, 4))
    straight = {a.request_id: a for a in serve(requests, deterministic=True)}
    turned = {a.request_id: a for a in serve(requests[::-1], deterministic=True)}
    assert said(straight[r.id] for r in requests) == said(turned[r.id] for r in requests)
    default = {a.request_id: a for a in serve(requests[::-1], deterministic=False)}
    for request in requests:
        assert ids(default[request.id]) == ids(straight[request.id])
        assert logprobs(default[request.id]) == pytest.approx(logprobs(straight[request.id]), abs=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("groups", [2, 8])
def test_the_row_a_request_gets_does_not_matter(groups: int, threads: int) -> None:
    """Seven rows are no multiple of what a matrix product takes at once, and fused attention over an odd number of
    heads per group has other bits in another thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        engine = Engine(
            endless_model(num_key_value_heads=groups),
            EngineConfig(max_rows=7, context=64, deterministic=True),
        )
        short = replace(GREEDY, max_tokens=4)
        tuned_weights = tuned(engine.model.layout, strength=0.5)
        plan = replace(plans()["all"], weight_corrections=(tuned_weights,))
        request = Request("probe", prompts()[0], short, plan)
        fillers = [Request(str(i), p, short) for i, p in enumerate(prompts())]
        alone = said(engine.generate([request]))
        for place in (1, 6):
            answers = engine.generate([*fillers[:place], request, *fillers[place:]])
            assert said([answers[place]]) == alone
        engine.close()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("deterministic", MODES)
def test_same_seed_same_tokens_whatever_the_batch(deterministic: bool) -> None:
    request = Request("probe", prompts()[0], DRAWN)
    others = [Request(str(i), p, replace(DRAWN, seed=i), plans()["all"]) for i, p in enumerate(prompts())]
    alone = serve([request], deterministic=deterministic)[0]
    crowd = serve([*others[:3], request, *others[3:]], deterministic=deterministic, max_rows=4)[3]
    assert ids(crowd) == ids(alone)
    reseeded = serve([replace(request, sampling=replace(DRAWN, seed=12))], deterministic=deterministic)[0]
    assert ids(reseeded) != ids(alone)


def test_a_retry_draws_with_the_same_number() -> None:
    """A gate that fires and changes nothing to speak of must not change the draw."""
    plan = plans()["drift"]
    feather = replace(plan, corrections=tuple(replace(c, strength=1e-6) for c in plan.corrections))
    engine = Engine(model(), EngineConfig(max_rows=6, context=96))
    spy = Spy(engine)
    answers = engine.generate(batch(with_threshold(feather, -1.0), sampling=DRAWN))
    engine.close()
    assert spy.retries == 6 * MAX_TOKENS
    off = serve(batch(Plan(), sampling=DRAWN), deterministic=False)
    assert [ids(a) for a in answers] == [ids(a) for a in off]


@pytest.mark.parametrize("asked", [None, 0, 20])
def test_asking_for_logprobs_changes_no_token(asked: int | None) -> None:
    sampling = replace(DRAWN, logprobs=asked)
    answers = serve(batch(Plan(), sampling=sampling), deterministic=True)
    assert [ids(a) for a in answers] == [ids(a) for a in serve(batch(Plan(), sampling=DRAWN), deterministic=True)]
    assert {len(t.top_logprobs) for a in answers for t in a.tokens} == {asked or 0}
    assert all((t.logprob is None) == (asked is None) for a in answers for t in a.tokens)


def test_logprobs_of_a_drawn_path_are_those_of_the_model() -> None:
    """Before temperature and truncation; checked by feeding the whole path to a plain model at once."""
    hf = tiny_hf()
    for answer, prompt in zip(serve(batch(Plan(), sampling=DRAWN), deterministic=False), prompts(), strict=True):
        with torch.no_grad():
            logits = hf(torch.tensor([[*prompt, *ids(answer)]]), use_cache=False).logits[0]
        expected = logits[len(prompt) - 1 : -1].log_softmax(-1)
        for token, row in zip(answer.tokens, expected, strict=True):
            assert token.logprob == pytest.approx(row[token.id].item(), abs=1e-4)
            assert [i for i, _ in token.top_logprobs] == row.topk(4).indices.tolist()
            assert [p for _, p in token.top_logprobs] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)


def test_X12_step_by_step_and_gathered_are_the_same() -> None:
    requests = batch(plans()["all"], sampling=DRAWN)
    gathered = serve(requests, deterministic=True)
    engine = Engine(model(), EngineConfig(max_rows=6, context=96, deterministic=True))
    for request in requests:
        engine.add(request)
    events = [event for _ in range(500) for event in engine.step()]
    engine.close()
    for request, answer in zip(requests, gathered, strict=True):
        own = [event for event in events if event.request_id == request.id]
        assert "".join(event.text for event in own) == answer.text
        assert tuple(event.token for event in own if event.token) == answer.tokens
        assert [event.finish for event in own if event.finish] == [answer.finish]


def test_closing_leaves_the_model_as_it_was_found() -> None:
    found = endless_model(seed=4)
    hf, tensor = found.hf, torch.tensor([prompts()[0]])
    before, attention = _logits(hf, tensor), hf.config._attn_implementation
    engine = Engine(found, EngineConfig(max_rows=2, context=96))
    assert _num_hooks(hf) > 0
    engine.generate([Request("a", prompts()[0], GREEDY, plans()["always"])])
    engine.close()
    assert hf.config._attn_implementation == attention
    assert _num_hooks(hf) == 0
    assert torch.equal(_logits(hf, tensor), before)


def _logits(hf: PreTrainedModel, tensor: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = hf(tensor, use_cache=False).logits
    return logits


def _num_hooks(hf: PreTrainedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in hf.modules())
