"""Layer contrast (DoLa) beside sampling, biases, scores and rows that break. That its numbers are right and its
neighbours untouched, `test_steering_oracle`, `test_steering_families` and the laws show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch

from steering.edit import Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request, SamplingParams
from steering.errors import NumericalError
from steering.model.loading import LanguageModel, wrap
from steering.plan import Plan
from steering.site import Site
from tests.engine.spy import ids
from tests.models import VOCAB_SIZE, byte_tokenizer, endless_model, tiny_hf
from tests.oracles.plain_hf import answer
from tests.plans import correction, dola, steered

DOLA = steered(dola(0, 1, 2, plausibility=0.6))
"""Few enough tokens are plausible that all are listed."""
DRAWN = SamplingParams(12, temperature=1.5, seed=5, logprobs=20)


@cache
def model() -> LanguageModel:
    return endless_model()


@pytest.fixture(params=[False, True], ids=["default", "deterministic"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = Engine(model(), EngineConfig(max_rows=4, context=64, deterministic=request.param))
    yield engine
    engine.close()


def prompt(length: int) -> tuple[int, ...]:
    return tuple(torch.randint(6, VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(length)).tolist())


def test_what_is_ruled_out_is_never_drawn(engine: Engine) -> None:
    answers = engine.generate([Request(str(i), prompt(5 + i), replace(DRAWN, seed=i), DOLA) for i in range(8)])
    tokens, counts = [token for answered in answers for token in answered.tokens], set[int]()
    for token in tokens:
        listed = [p for _, p in token.top_logprobs if p > -math.inf]
        assert token.logprob in listed and len(listed) < 20
        assert sum(map(math.exp, listed)) == pytest.approx(1.0, abs=1e-4)
        counts.add(len(listed))
    assert len(tokens) == 96 and len(counts) > 3


def test_no_bias_brings_back_what_is_ruled_out(engine: Engine) -> None:
    first = engine.generate([Request("a", prompt(7), DRAWN, DOLA)])[0].tokens[0]
    out = next(i for i, p in first.top_logprobs if p == -math.inf)
    biased = replace(DRAWN, max_tokens=1, logit_bias=((out, 100.0),), repetition_penalty=1.5)
    on, off = engine.generate([Request("on", prompt(7), biased, DOLA), Request("off", prompt(7), biased)])
    assert ids(on)[0] != out and ids(off)[0] == out


def test_a_forced_token_may_be_one_that_is_ruled_out(engine: Engine) -> None:
    forced = replace(DRAWN, max_tokens=3, forced=(20, 21, 22))
    answered = engine.generate([Request("a", prompt(7), forced, DOLA)])[0]
    assert ids(answered) == [20, 21, 22] and answered.finish.reason == "length"
    assert -math.inf in [token.logprob for token in answered.tokens]


def test_T16_a_row_that_overflows_ends_alone(engine: Engine) -> None:
    push = replace(correction(Shift, model().layout, Site("resid_post", 1)), edit=Shift(torch.full((64,), 3e38)))
    broken = Request("broken", prompt(9), DRAWN, steered(replace(push, strength=10.0), dola(0, 1, 2)))
    fine = Request("fine", prompt(9), DRAWN, DOLA)
    answers = engine.generate([fine, broken])
    assert isinstance(answers[1].finish.error, NumericalError)
    alone = engine.generate([replace(fine, id="again")])[0]
    assert ids(answers[0]) == ids(alone)


def test_half_precision_keeps_to_the_oracle_up_to_rounding() -> None:
    """Without a cut, at which a rounded probability may fall to either side."""
    hf, plan = tiny_hf().to(torch.bfloat16), steered(dola(1, plausibility=0.0))
    engine = Engine(replace(wrap(hf, byte_tokenizer(), "half"), stop_ids=frozenset()), EngineConfig(context=64))
    token = engine.generate([Request("a", prompt(9), SamplingParams(1, temperature=0, logprobs=9), plan)])[0].tokens[0]
    engine.close()
    single = tiny_hf().to(torch.bfloat16).float()
    single.set_attn_implementation("eager")
    expected = answer(single, prompt(9), plan, max_tokens=1)[0].logprobs
    for token_id, logprob in token.top_logprobs:
        assert logprob == pytest.approx(expected[token_id].item(), abs=0.15)


def test_an_answer_under_a_plan_that_is_off_is_plain(engine: Engine) -> None:
    plain, off = engine.generate(
        [Request("plain", prompt(9), DRAWN, Plan()), Request("off", prompt(9), DRAWN, replace(DOLA, mode="off"))]
    )
    assert ids(plain) == ids(off)
    assert not off.finish.receipt.applied
