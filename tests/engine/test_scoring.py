"""Log-probabilities of the prompt: those of a plain forward over it, steered where the plan steers prompts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from steering.correction import Correction
from steering.edit import Shift
from steering.engine import scoring
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams, Token
from steering.errors import NumericalError, ValueOutOfRange
from steering.gate import Gate
from steering.model.layout import LinearUnembed
from steering.model.loading import LanguageModel
from steering.plan import Detector
from steering.site import Site
from tests.engine.spy import ids
from tests.models import VOCAB_SIZE, endless_model, tiny_hf, tiny_model
from tests.plans import BOTH, COMPLETION, PROMPT, contrast, steered, tuned_lens

SCORE = SamplingParams(0, temperature=0, prompt_logprobs=3)
LENGTHS = (40, 1, 2, 17, 16, 150)
VECTOR = torch.randn(64, generator=torch.Generator().manual_seed(3)) * 3


@cache
def model() -> LanguageModel:
    return endless_model()


@cache
def prompts() -> list[tuple[int, ...]]:
    noise = torch.Generator().manual_seed(29)
    return [tuple(torch.randint(6, VOCAB_SIZE, (n,), generator=noise).tolist()) for n in LENGTHS]


def serve(requests: list[Request], *, prefill_tokens: int = 512, deterministic: bool = False) -> list[Completion]:
    config = EngineConfig(max_rows=4, context=192, prefill_tokens=prefill_tokens, deterministic=deterministic)
    engine = Engine(model(), config)
    answers = engine.generate(requests)
    engine.close()
    return answers


def expected(prompt: tuple[int, ...], *, pushed: bool = False) -> Tensor:
    """[T - 1, V] by a stock model; pushed: VECTOR added to what block 1 returns, at every position."""
    hf = tiny_hf()

    def push(module: nn.Module, args: object, output: Tensor) -> Tensor:
        return output + VECTOR

    handle = hf.model.layers[1].register_forward_hook(push) if pushed else None
    with torch.no_grad():
        logits: Tensor = hf(torch.tensor([prompt]), use_cache=False).logits[0, :-1]
    if handle:
        handle.remove()
    return logits.log_softmax(-1)


def check(tokens: tuple[Token, ...], prompt: tuple[int, ...], wanted: Tensor) -> None:
    assert [token.id for token in tokens] == list(prompt)
    assert tokens[0].logprob is None and tokens[0].top_logprobs == ()
    for token, row in zip(tokens[1:], wanted, strict=True):
        assert token.logprob == pytest.approx(row[token.id].item(), abs=1e-4)
        assert [i for i, _ in token.top_logprobs] == row.topk(3).indices.tolist()
        assert [p for _, p in token.top_logprobs] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)


@pytest.mark.parametrize("deterministic", [False, True], ids=["default", "deterministic"])
@pytest.mark.parametrize("prefill_tokens", [16, 512])
def test_scores_are_those_of_a_plain_forward(prefill_tokens: int, deterministic: bool) -> None:
    requests = [Request(str(i), p, SCORE) for i, p in enumerate(prompts())]
    answers = serve(requests, prefill_tokens=prefill_tokens, deterministic=deterministic)
    for answer, prompt in zip(answers, prompts(), strict=True):
        check(answer.prompt, prompt, expected(prompt))
        assert answer.tokens == () and answer.text == "" and answer.finish.reason == "length"
        assert (answer.finish.prompt_tokens, answer.finish.completion_tokens) == (len(prompt), 0)


@pytest.mark.parametrize("phases", [PROMPT, BOTH, COMPLETION], ids=["prompt", "both", "completion"])
def test_a_plan_that_steers_the_prompt_is_what_scores_it(phases: frozenset[str]) -> None:
    gate = Gate(phases=phases)  # type: ignore[arg-type]
    plan = steered(Correction("push", Site("resid_post", 1), Shift(VECTOR), gate))
    answers = serve([Request(str(i), p, SCORE, plan) for i, p in enumerate(prompts())])
    for answer, prompt in zip(answers, prompts(), strict=True):
        check(answer.prompt, prompt, expected(prompt, pushed="prompt" in phases))
    moved = expected(prompts()[0], pushed=True) - expected(prompts()[0])
    assert moved.abs().max() > 0.5, "the correction moves nothing"


def test_a_lens_contrast_does_not_act_on_prompts() -> None:
    plan = steered(contrast(), detector=Detector(tuned_lens(model().layout, 1), 0.5))
    answer = serve([Request("a", prompts()[0], SCORE, plan)])[0]
    check(answer.prompt, prompts()[0], expected(prompts()[0]))


def test_scoring_changes_no_token_and_comes_once_with_the_first() -> None:
    sampling = SamplingParams(8, temperature=1.0, seed=4, logprobs=2)
    plain = serve([Request(str(i), p, sampling) for i, p in enumerate(prompts())])
    scored = serve([Request(str(i), p, replace(sampling, prompt_logprobs=3)) for i, p in enumerate(prompts())])
    assert [a.tokens for a in scored] == [a.tokens for a in plain]
    engine = Engine(model(), EngineConfig(max_rows=2, context=192))
    engine.add(Request("a", prompts()[0], replace(sampling, prompt_logprobs=3)))
    events = [event for _ in range(9) for event in engine.step()]
    engine.close()
    assert [len(event.prompt) for event in events] == [40] + [0] * 7


def test_answers_to_one_prompt_all_get_its_scores() -> None:
    sampling = SamplingParams(4, temperature=1.0, seed=4, prompt_logprobs=3)
    answers = serve([Request("a", prompts()[0], sampling, n=6)], prefill_tokens=16)
    assert len(answers) == 6
    for answer in answers:
        assert answer.prompt == answers[0].prompt
    check(answers[0].prompt, prompts()[0], expected(prompts()[0]))


def test_scores_do_not_depend_on_the_batch_in_deterministic_mode() -> None:
    requests = [Request(str(i), p, replace(SCORE, max_tokens=i)) for i, p in enumerate(prompts())]
    together = serve(requests, prefill_tokens=16, deterministic=True)
    alone = [serve([request], prefill_tokens=16, deterministic=True)[0] for request in requests]
    assert [a.prompt for a in together] == [a.prompt for a in alone]


def test_logits_of_a_long_prompt_are_never_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    original = LinearUnembed.normed_logits

    def watched(self: LinearUnembed, normed: Tensor) -> Tensor:
        widths.append(normed.shape[0])
        return original(self, normed)

    monkeypatch.setattr(LinearUnembed, "normed_logits", watched)
    serve([Request("a", prompts()[-1], SCORE)])
    assert sum(widths) == LENGTHS[-1] and max(widths) <= scoring.BLOCK < LENGTHS[-1]
    widths.clear()
    serve([Request("a", prompts()[-1], SamplingParams(1, temperature=0))])
    assert sum(widths) == 1, "a prompt that nobody scores is unembedded"


def test_T16_a_prompt_that_overflows_at_the_logits_ends_alone() -> None:
    """At one of its positions and not at the last, so that its answer would be healthy."""
    loud = tiny_model()
    with torch.no_grad():
        loud.hf.lm_head.weight[7] = 0.0
        loud.hf.lm_head.weight[7, 0] = 3e38  # overflows where the first feature is above 1.13
        features = loud.hf.model(torch.tensor([prompts()[0]])).last_hidden_state[0, :, 0]
    end = next(i for i in range(5, 40) if -1.0 < features[i] < -0.1 and features[:i].max() > 1.2)
    broken = Request("broken", prompts()[0][: end + 1], SCORE)
    unscored = replace(broken, id="unscored", sampling=SamplingParams(1, temperature=0))
    engine = Engine(replace(loud, stop_ids=frozenset()), EngineConfig(max_rows=3, context=192))
    answer, neighbour = engine.generate([broken, unscored])
    engine.close()
    assert isinstance(answer.finish.error, NumericalError) and neighbour.finish.error is None


def test_S4_no_tokens_without_scores_are_refused() -> None:
    with pytest.raises(ValueOutOfRange, match="max_tokens"):
        SamplingParams(0)
    assert SamplingParams(0, prompt_logprobs=0).max_tokens == 0
    full = Request("a", tuple(range(10, 202)), SCORE)
    assert len(serve([full])[0].prompt) == 192, "a prompt that fills the context can be scored"
    assert ids(serve([replace(full, sampling=SCORE)])[0]) == []
