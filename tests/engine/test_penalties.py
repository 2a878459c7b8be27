"""Penalties and bias: transformers' processors and a reference by hand say what they do; no other row feels them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from steering.edit import Set
from steering.engine.config import EngineConfig
from steering.engine.decision import changed_logits
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.engine.sampler import Changed, sample
from steering.engine.sequence import Sequence
from steering.errors import InvalidRequest, ValueOutOfRange
from steering.model.loading import LanguageModel
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import Spy, drain, gather, ids, logprobs
from tests.models import VOCAB_SIZE, endless_model, tiny_hf
from tests.plans import DRIFT, contrast, correction, steered, tuned_lens

GREEDY = SamplingParams(20, temperature=0, logprobs=3)
DRAWN = replace(GREEDY, temperature=1.1, top_p=0.95, seed=5)
BIAS = ((7, 100.0), (300, -100.0), (45, 2.5), (383, 0.0))
KINDS: dict[str, dict[str, object]] = {
    "presence": {"presence_penalty": 1.5},
    "presence rewarded": {"presence_penalty": -2.0},
    "frequency": {"frequency_penalty": 0.7},
    "repetition": {"repetition_penalty": 1.4},
    "repetition rewarded": {"repetition_penalty": 0.8},
    "bias": {"logit_bias": ((45, 2.5), (300, -100.0), (17, 4.0))},
    "all": {"presence_penalty": 0.3, "frequency_penalty": -0.2, "repetition_penalty": 1.2, "logit_bias": ((9, 3.0),)},
}
MODES = [pytest.param(False, id="default"), pytest.param(True, id="deterministic")]


@cache
def model() -> LanguageModel:
    return endless_model()


@cache
def prompts() -> list[tuple[int, ...]]:
    noise = torch.Generator().manual_seed(23)
    return [tuple(torch.randint(6, VOCAB_SIZE, (n,), generator=noise).tolist()) for n in (21, 1, 40, 13)]


def serve(requests: list[Request], *, deterministic: bool = False, max_rows: int = 6) -> list[Completion]:
    engine = Engine(model(), EngineConfig(max_rows=max_rows, context=96, deterministic=deterministic))
    answers = engine.generate(requests)
    engine.close()
    return answers


def said(answer: Completion) -> object:
    return [(t.id, t.logprob, t.top_logprobs) for t in answer.tokens]


def by_hand(logits: Tensor, sampling: SamplingParams, prompt: list[int], generated: list[int]) -> Tensor:
    """One token at a time: OpenAI's formula, and transformers' processors for the rest."""
    scores, seen = logits[None].float(), torch.tensor([prompt + generated])
    if sampling.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty))(seen, scores)
    scores = scores.clone()
    for token_id in range(scores.shape[-1]):
        count = generated.count(token_id)
        scores[0, token_id] -= count * sampling.frequency_penalty + (count > 0) * sampling.presence_penalty
    if sampling.logit_bias:
        scores = SequenceBiasLogitsProcessor([[[i], b] for i, b in sampling.logit_bias])(seen, scores)
    return scores[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_S10_logits_are_those_of_transformers_and_openai(kind: str, dtype: torch.dtype) -> None:
    noise = torch.Generator().manual_seed(len(kind))
    for length in (0, 1, 5, 60):
        prompt = torch.randint(0, VOCAB_SIZE, (9,), generator=noise).tolist()
        generated = torch.randint(0, 40, (length,), generator=noise).tolist()
        logits = (torch.randn(3, VOCAB_SIZE, generator=noise) * 4).to(dtype)
        sampling = replace(GREEDY, **KINDS[kind])  # type: ignore[arg-type]
        row = sequence(prompt, generated, sampling)
        before = logits.clone()
        changed = changed_logits((sequence(prompt, generated, GREEDY), row), logits)
        assert changed is not None and changed.rows == [1] and changed.logits.dtype == torch.float32
        torch.testing.assert_close(
            changed.logits[0], by_hand(logits[1], sampling, prompt, generated), atol=1e-5, rtol=1e-6
        )
        assert torch.equal(logits, before), "the model's own logits, which log-probabilities are of, were changed"


def sequence(prompt: list[int], generated: list[int], sampling: SamplingParams) -> Sequence:
    made = Sequence(Request("", tuple(prompt), sampling), detokenizer=None)  # type: ignore[arg-type]
    made.token_ids += generated
    return made


class OpenAI(LogitsProcessor):  # type: ignore[misc]
    """Presence and frequency by hand, for `generate`."""

    def __init__(self, sampling: SamplingParams, num_prompt: int) -> None:
        self.sampling, self.num_prompt = sampling, num_prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        plain = replace(self.sampling, repetition_penalty=1.0, logit_bias=())
        return by_hand(scores[0], plain, [], input_ids[0, self.num_prompt :].tolist())[None]


@cache
def generated(prompt: tuple[int, ...], sampling: SamplingParams) -> list[int]:
    hf, tensor = tiny_hf(), torch.tensor([prompt])
    processors = LogitsProcessorList()
    if sampling.presence_penalty or sampling.frequency_penalty:
        processors.append(OpenAI(sampling, len(prompt)))
    if sampling.repetition_penalty != 1:
        processors.insert(0, RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.logit_bias:
        processors.append(SequenceBiasLogitsProcessor([[[i], b] for i, b in sampling.logit_bias]))
    output = hf.generate(
        tensor,
        attention_mask=torch.ones_like(tensor),
        max_new_tokens=sampling.max_tokens,
        do_sample=False,
        eos_token_id=None,
        logits_processor=processors,
    )
    return output[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_answers_equal_generate(kind: str) -> None:
    """All kinds side by side in one batch, each as `generate` does it alone."""
    sampling = replace(GREEDY, **KINDS[kind])  # type: ignore[arg-type]
    requests = [Request(str(i), p, sampling if i % 2 else GREEDY) for i, p in enumerate([*prompts(), *prompts()[::-1]])]
    answers = serve(requests)
    differs = 0
    for request, answer in zip(requests, answers, strict=True):
        assert ids(answer) == generated(request.prompt_ids, request.sampling)
        differs += request.sampling is sampling and ids(answer) != generated(request.prompt_ids, GREEDY)
    assert differs, "the penalty changed nothing"


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_what_asks_for_nothing_is_the_identity(sampling: SamplingParams, deterministic: bool) -> None:
    plain = [said(a) for a in serve([Request(str(i), p, sampling) for i, p in enumerate(prompts())])]
    nothing = replace(
        sampling, presence_penalty=-0.0, frequency_penalty=0.0, repetition_penalty=1.0, logit_bias=((5, 0.0), (6, -0.0))
    )
    assert nothing.penalises
    assert [said(a) for a in serve([Request(str(i), p, nothing) for i, p in enumerate(prompts())])] == plain
    assert not replace(nothing, logit_bias=()).penalises


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_S7_a_neighbour_s_bias_never_touches_this_row(sampling: SamplingParams, deterministic: bool) -> None:
    """Also after rows have moved: short neighbours leave their rows to others."""
    loud = [
        replace(sampling, max_tokens=3 + i, logit_bias=BIAS, presence_penalty=2.0, repetition_penalty=2.0)
        for i in range(6)
    ]
    quiet = [Request(f"quiet{i}", prompts()[i % 4], replace(sampling, seed=i)) for i in range(3)]
    noisy = [Request(f"loud{i}", prompts()[i % 4], s) for i, s in enumerate(loud)]
    engine = Engine(model(), EngineConfig(max_rows=5, context=96, deterministic=deterministic))
    spy = Spy(engine)
    mixed = [noisy[0], quiet[0], noisy[1], quiet[1], noisy[2], quiet[2], *noisy[3:]]
    done = {a.request_id: a for a in engine.generate(mixed)}
    engine.close()
    assert any(length > 1 for _, _, length in spy.moves), "no row ever moved"
    for request in (*quiet, *noisy):
        alone = serve([request], deterministic=deterministic, max_rows=5)[0]
        assert ids(done[request.id]) == ids(alone)
        tolerance = 0.0 if deterministic else 1e-4
        assert logprobs(done[request.id]) == pytest.approx(logprobs(alone), abs=tolerance, rel=0)
    assert all(7 in ids(done[request.id]) for request in noisy), "the bias did not act"


def test_log_probabilities_are_the_model_s_own() -> None:
    """Before penalties and bias, whatever is drawn; and with them +100 makes a token certain, -100 impossible."""
    hf = tiny_hf()
    for prompt in prompts():
        sampling = replace(DRAWN, logit_bias=BIAS, frequency_penalty=1.0)
        answer = serve([Request("a", prompt, sampling)])[0]
        assert set(ids(answer)) == {7}
        with torch.no_grad():
            logits = hf(torch.tensor([[*prompt, *ids(answer)]]), use_cache=False).logits[0]
        expected = logits[len(prompt) - 1 : -1].log_softmax(-1)
        assert logprobs(answer) == pytest.approx(expected[:, 7].tolist(), abs=1e-4)
        assert [[i for i, _ in t.top_logprobs] for t in answer.tokens] == expected.topk(3).indices.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_lens_reads_the_model_s_own_distribution(kind: str) -> None:
    """Drift at every position of a penalised path is that of an unpenalised request which starts there."""
    watch = Plan(mode="observe", detector=Detector(tuned_lens(model().layout, 1), 0.5), trace="tokens")
    sampling = replace(GREEDY, max_tokens=6, **KINDS[kind])  # type: ignore[arg-type]
    answer = serve([Request("a", prompts()[0], sampling, watch)])[0]
    path = ids(answer)
    from_there = [
        Request(str(i), (*prompts()[0], *path[:i]), replace(GREEDY, max_tokens=1), watch) for i in range(len(path))
    ]
    for token, own in zip(answer.tokens, serve(from_there), strict=True):
        expected = own.tokens[0].reading
        assert token.reading and expected
        assert token.reading.drift == pytest.approx(expected.drift, abs=1e-5)
        assert [i for i, _ in token.reading.late] == [i for i, _ in expected.late]


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_observe_changes_no_token(kind: str, deterministic: bool) -> None:
    detector = Detector(tuned_lens(model().layout, 1), 0.01)
    parts = (correction(Set, model().layout, Site("attn_z", 1), gate=DRIFT), contrast(gate=DRIFT))
    watching = replace(steered(*parts, detector=detector, trace=True), mode="observe")
    sampling = replace(DRAWN, **KINDS[kind])  # type: ignore[arg-type]
    off, watched = (
        serve([Request(str(i), p, sampling, plan) for i, p in enumerate(prompts())], deterministic=deterministic)
        for plan in (Plan(), watching)
    )
    assert [said(a) for a in watched] == [said(a) for a in off]
    assert all(a.finish.receipt.fired_tokens for a in watched)


def test_a_retried_position_draws_with_the_same_penalties() -> None:
    """A gate that fires everywhere and changes nothing to speak of must not change what is drawn."""
    feather = correction(Set, model().layout, Site("attn_z", 1), gate=DRIFT, strength=1e-6)
    plan = steered(feather, detector=Detector(tuned_lens(model().layout, 1), -1.0))
    for kind in KINDS.values():
        sampling = replace(DRAWN, **kind)  # type: ignore[arg-type]
        engine = Engine(model(), EngineConfig(max_rows=6, context=96))
        spy = Spy(engine)
        answers = engine.generate([Request(str(i), p, sampling, plan) for i, p in enumerate(prompts())])
        engine.close()
        assert spy.retries == sampling.max_tokens * len(prompts())
        off = serve([Request(str(i), p, sampling) for i, p in enumerate(prompts())])
        assert [ids(a) for a in answers] == [ids(a) for a in off]


def test_penalties_act_after_lens_contrast() -> None:
    """A contrast behind an always gate, then a bias that outweighs it."""
    plan = steered(contrast(), detector=Detector(tuned_lens(model().layout, 1), 0.5))
    answer = serve([Request("a", prompts()[0], replace(GREEDY, logit_bias=((7, 100.0),)), plan)])[0]
    assert set(ids(answer)) == {7} and answer.finish.receipt.applied


def test_changed_rows_are_drawn_from_their_own_logits() -> None:
    logits = torch.zeros(4, 8)
    favourite: Callable[[int], Tensor] = lambda i: torch.where(torch.arange(8) == i, 50.0, 0.0)  # noqa: E731
    params = [GREEDY, DRAWN, replace(DRAWN, top_k=3), replace(DRAWN, top_p=1.0)]
    changed = torch.stack([favourite(row + 2) for row in (0, 1, 2)])
    drawn = sample(logits, params, [0.0, 0.5, 0.5, 0.999], Changed((0, 1, 2), changed))
    assert drawn.tolist() == [2, 3, 4, 7]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(model(), EngineConfig(max_rows=2, context=64))
    yield engine
    engine.close()


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE, 2**40])
@pytest.mark.parametrize("field", ["logit_bias", "stop_token_ids"])
def test_S7_ids_outside_the_logits_are_refused_by_the_engine_itself(engine: Engine, field: str, token_id: int) -> None:
    value = ((token_id, 1.0),) if field == "logit_bias" else (token_id,)
    with pytest.raises(InvalidRequest, match=f"0 to {VOCAB_SIZE - 1}") as caught:
        engine.add(Request("a", prompts()[0], replace(GREEDY, **{field: value})))  # type: ignore[arg-type]
    assert caught.value.param == field and not engine.has_work


def test_S7_the_logits_width_counts_and_not_the_tokenizer_s() -> None:
    """No model with fewer logits than tokens can be loaded; one with more is served to its last."""
    wide = endless_model(vocab_size=400)
    engine = Engine(wide, EngineConfig(max_rows=2, context=64))
    assert len(wide.tokenizer) == 384
    answer = engine.generate([Request("a", (9, 10), replace(GREEDY, max_tokens=4, logit_bias=((399, 100.0),)))])[0]
    engine.close()
    assert ids(answer) == [399] * 4 and answer.text == ""


@pytest.mark.parametrize(
    "bad",
    [
        {"presence_penalty": 2.1},
        {"presence_penalty": math.nan},
        {"frequency_penalty": -2.1},
        {"frequency_penalty": math.inf},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 2.1},
        {"repetition_penalty": math.nan},
        {"logit_bias": ((1, 100.1),)},
        {"logit_bias": ((1, math.nan),)},
        {"logit_bias": ((1, 1e30),)},
        {"logit_bias": ((1, 1.0), (1, 2.0))},
        {"logit_bias": tuple((i, 1.0) for i in range(301))},
        {"stop_token_ids": tuple(range(65))},
        {"prompt_logprobs": 21},
    ],
    ids=lambda bad: str(bad)[:40],
)
def test_S7_S10_impossible_values_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueOutOfRange) as caught:
        replace(GREEDY, **bad)  # type: ignore[arg-type]
    assert caught.value.param == next(iter(bad)) and len(str(caught.value)) < 500


def test_S14_bounds_are_inside() -> None:
    bias = tuple((i, -100.0 + i % 2 * 200) for i in range(300))
    edge = replace(GREEDY, presence_penalty=2, frequency_penalty=-2, repetition_penalty=0.1, logit_bias=bias)
    assert len(serve([Request("a", prompts()[0], replace(edge, stop_token_ids=tuple(range(320, 384))))])) == 1


def test_stop_token_ids_end_an_answer_and_are_no_part_of_it(engine: Engine) -> None:
    full = ids(engine.generate([Request("a", prompts()[0], GREEDY)])[0])
    stop = next(i for i in full[5:] if i not in full[:5])
    engine.add(Request("stopped", prompts()[0], replace(GREEDY, stop_token_ids=(3, stop))))
    engine.add(Request("neighbour", prompts()[0], GREEDY))
    done = gather(drain(engine))
    assert ids(done["stopped"]) == full[: full.index(stop)] and done["stopped"].finish.reason == "stop"
    assert ids(done["neighbour"]) == full


def test_ignore_eos_goes_on_after_the_model_s_own_end() -> None:
    plain = serve([Request("a", prompts()[0], GREEDY)])[0]
    ending = Engine(replace(model(), stop_ids=frozenset({ids(plain)[4]})), EngineConfig(max_rows=2, context=64))
    ended, went_on, stopped = ending.generate(
        [
            Request("a", prompts()[0], GREEDY),
            Request("b", prompts()[0], replace(GREEDY, ignore_eos=True)),
            Request("c", prompts()[0], replace(GREEDY, ignore_eos=True, stop_token_ids=(ids(plain)[4],))),
        ]
    )
    ending.close()
    assert len(ids(ended)) < 5 and ended.finish.reason == "stop"
    assert ids(went_on) == ids(plain) and ids(stopped) == ids(ended)
