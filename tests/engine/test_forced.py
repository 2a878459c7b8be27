"""Forced answers: what was to be said is said, and measured as if the model had said it of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch

from steering.correction import Correction
from steering.edit import Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.errors import InvalidRequest, ValueOutOfRange
from steering.gate import Gate
from steering.model.loading import LanguageModel
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import ids
from tests.models import VOCAB_SIZE, endless_model, tiny_model
from tests.plans import BOTH, DRIFT, correction, separating_threshold, steered, tuned_lens, with_threshold

NOISE = torch.Generator().manual_seed(31)
PROMPT, ANSWER = (tuple(torch.randint(6, VOCAB_SIZE, (n,), generator=NOISE).tolist()) for n in (12, 20))
VECTOR = torch.randn(64, generator=torch.Generator().manual_seed(3)) * 3
FORCING = SamplingParams(len(ANSWER), temperature=0, forced=ANSWER, logprobs=0)


@cache
def model() -> LanguageModel:
    return endless_model()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(model(), EngineConfig(max_rows=4, context=64, deterministic=True))
    yield engine
    engine.close()


def answer(engine: Engine, sampling: SamplingParams, plan: Plan | None = None) -> Completion:
    return engine.generate([Request("a", PROMPT, sampling, plan or Plan())])[0]


@pytest.mark.parametrize("pushed", [False, True], ids=["plain", "steered"])
def test_scores_are_those_of_the_same_text_as_a_prompt(engine: Engine, pushed: bool) -> None:
    push = Correction("push", Site("resid_post", 1), Shift(VECTOR), Gate(phases=BOTH))
    plan = steered(push) if pushed else Plan()
    forced = answer(engine, FORCING, plan)
    assert tuple(ids(forced)) == ANSWER
    scoring = SamplingParams(0, temperature=0, prompt_logprobs=0)
    scored = engine.generate([Request("b", PROMPT + ANSWER, scoring, plan)])[0]
    expected = [token.logprob for token in scored.prompt[len(PROMPT) :]]
    assert [token.logprob for token in forced.tokens] == pytest.approx(expected, abs=1e-4)


def test_repeating_what_was_drawn_changes_nothing(engine: Engine) -> None:
    """Nor with a gate that fires and retries."""
    gated = correction(Shift, model().layout, Site("resid_post", 2), gate=DRIFT)
    plan = steered(gated, detector=Detector(tuned_lens(model().layout, 1), 1.0), trace=True)
    drawing = SamplingParams(20, temperature=1.0, seed=5, logprobs=4)
    watched = answer(engine, drawing, replace(plan, mode="observe"))
    threshold = separating_threshold([token.reading.drift for token in watched.tokens if token.reading])
    drawn = answer(engine, drawing, with_threshold(plan, threshold))
    assert 0 < drawn.finish.receipt.fired_tokens < 20
    again = answer(engine, replace(drawing, seed=6, forced=tuple(ids(drawn))), with_threshold(plan, threshold))
    assert again == drawn
    other = answer(engine, replace(drawing, seed=6), with_threshold(plan, threshold))
    assert ids(other) != ids(drawn), "another seed draws the same"


def test_what_follows_is_drawn(engine: Engine) -> None:
    greedy = SamplingParams(20, temperature=0)
    full = ids(answer(engine, greedy))
    assert ids(answer(engine, replace(greedy, forced=tuple(full[:5])))) == full
    turned = ids(answer(engine, replace(greedy, forced=ANSWER[:5])))
    assert turned[:5] == list(ANSWER[:5]) and turned[5:] != full[5:]


def test_neighbours_do_not_feel_it(engine: Engine) -> None:
    greedy = SamplingParams(20, temperature=0, logprobs=2)
    alone = answer(engine, greedy)
    beside = engine.generate([Request("f", PROMPT, FORCING), Request("a", PROMPT, greedy)])[1]
    assert beside == alone


def test_a_forced_end_ends_the_answer() -> None:
    engine = Engine(replace(tiny_model(), stop_ids=frozenset({ANSWER[7]})), EngineConfig(max_rows=2, context=64))
    assert len(answer(engine, FORCING).tokens) == ANSWER.index(ANSWER[7])
    assert len(answer(engine, replace(FORCING, ignore_eos=True)).tokens) == len(ANSWER)
    engine.close()


def test_distributions_are_whole_and_only_where_asked_for(engine: Engine) -> None:
    asked, other = engine.generate(
        [Request("a", PROMPT, replace(FORCING, distributions=True)), Request("b", PROMPT, FORCING)]
    )
    for token in asked.tokens:
        assert token.distribution is not None and token.distribution.shape == (VOCAB_SIZE,)
        assert token.distribution.logsumexp(-1).item() == pytest.approx(0.0, abs=1e-5)
        assert token.distribution[token.id].item() == token.logprob
    assert [token.logprob for token in asked.tokens] == [token.logprob for token in other.tokens]
    assert all(token.distribution is None for token in other.tokens)


def test_what_cannot_be_forced_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="forced: token ids are 0 to"):
        answer(engine, replace(FORCING, forced=(VOCAB_SIZE,)))
    with pytest.raises(ValueOutOfRange, match="forced"):
        SamplingParams(3, forced=ANSWER)
