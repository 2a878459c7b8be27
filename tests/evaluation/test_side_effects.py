"""Side effects: nothing is nothing, and what there is agrees with plain forwards of a stock model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from steering.correction import Correction
from steering.edit import Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams, Token
from steering.evaluation.side_effects import SideEffects, divergence, side_effects
from steering.model.loading import LanguageModel
from steering.plan import Plan
from steering.site import Site
from tests.models import VOCAB_SIZE, endless_model, tiny_hf
from tests.plans import dola, steered

MAX_TOKENS = 12
VECTOR = torch.randn(64, generator=torch.Generator().manual_seed(3))
PUSH = steered(Correction("push", Site("resid_post", 1), Shift(VECTOR)))  # completion alone


@cache
def model() -> LanguageModel:
    return endless_model()


@cache
def prompts() -> list[tuple[int, ...]]:
    noise = torch.Generator().manual_seed(4)
    return [tuple(torch.randint(6, VOCAB_SIZE, (n,), generator=noise).tolist()) for n in (9, 4, 17, 30)]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(model(), EngineConfig(max_rows=4, context=64))
    yield engine
    engine.close()


def logprobs(text: tuple[int, ...], start: int, *, pushed: bool) -> Tensor:
    """[T - start, V] of the positions that predict text[start:], by a stock model; pushed: from start - 1 on."""
    hf = tiny_hf()

    def push(module: nn.Module, args: object, output: Tensor) -> Tensor:
        moved = output.clone()
        moved[:, start - 1 :] += VECTOR
        return moved

    handle = hf.model.layers[1].register_forward_hook(push) if pushed else None
    with torch.no_grad():
        logits: Tensor = hf(torch.tensor([text]), use_cache=False).logits[0, start - 1 : -1]
    if handle:
        handle.remove()
    return logits.log_softmax(-1)


def measured(engine: Engine, plan: Plan) -> SideEffects:
    return side_effects(engine, plan, prompts(), prompts(), max_tokens=MAX_TOKENS)


def test_off_has_none(engine: Engine) -> None:
    none = measured(engine, Plan())
    assert none.kl == pytest.approx(0.0, abs=1e-6) and none.worst_kl == pytest.approx(0.0, abs=1e-5)
    assert none.perplexity == pytest.approx(0.0, abs=1e-5) and none.length == 0.0
    assert none.holds


def test_agrees_with_plain_forwards(engine: Engine) -> None:
    found = measured(engine, PUSH)
    divergences, losses = [], {False: [], True: []}
    for prompt in prompts():
        text = prompt
        for _ in range(MAX_TOKENS):
            with torch.no_grad():
                text += (int(tiny_hf()(torch.tensor([text])).logits[0, -1].argmax()),)
        p, q = (logprobs(text, len(prompt), pushed=pushed) for pushed in (False, True))
        divergences.append((p.exp() * (p - q)).sum(-1))
        for pushed, kept in losses.items():
            own = logprobs(prompt, 1, pushed=pushed).gather(-1, torch.tensor(prompt[1:])[:, None])
            kept.append(-own[:, 0])
    kl = torch.cat(divergences)
    assert found.kl == pytest.approx(kl.mean().item(), rel=1e-3)
    assert found.worst_kl == pytest.approx(kl.topk(round(0.05 * len(kl))).values.mean().item(), rel=1e-3)
    plain, steered_loss = (torch.cat(losses[pushed]).mean() for pushed in (False, True))
    assert found.perplexity == pytest.approx((steered_loss - plain).exp().item() - 1, rel=1e-3)
    assert found.kl > 0.05 and found.perplexity != 0.0, "the correction moves nothing"


def test_length_is_that_of_the_answers(engine: Engine) -> None:
    """A token that only the steered model says is made to end answers."""
    asked = [Request("a", prompts()[0], SamplingParams(MAX_TOKENS, temperature=0), plan) for plan in (Plan(), PUSH)]
    plain, pushed = ([token.id for token in engine.generate([request])[0].tokens] for request in asked)
    end = next(i for i in pushed if i not in plain)
    ending = Engine(replace(model(), stop_ids=frozenset({end})), EngineConfig(max_rows=4, context=64))
    found = side_effects(ending, PUSH, prompts()[:1], prompts(), max_tokens=MAX_TOKENS)
    ending.close()
    assert found.length == pushed.index(end) / MAX_TOKENS - 1 < 0


@pytest.mark.parametrize(
    ("effects", "holds"),
    [
        (SideEffects(0.0, 1.0, 0.01, -0.05), True),
        (SideEffects(0.0, 1.1, 0.0, 0.0), False),
        (SideEffects(0.0, 0.0, 0.02, 0.0), False),
        (SideEffects(0.0, 0.0, -0.5, 0.0), True),
        (SideEffects(0.0, 0.0, 0.0, -0.06), False),
        (SideEffects(0.0, 0.0, 0.0, 0.06), False),
    ],
)
def test_limits(effects: SideEffects, holds: bool) -> None:
    assert effects.holds is holds


def test_ruling_tokens_out_is_infinitely_far_unless_they_were_impossible(engine: Engine) -> None:
    far = measured(engine, steered(dola(0, 1)))
    assert far.kl == far.worst_kl == far.perplexity == math.inf and not far.holds
    plain, ruled_out, other = (
        Completion("", "", (Token(0, distribution=torch.tensor(logprobs)),), None)  # type: ignore[arg-type]
        for logprobs in ([0.0, -200.0], [0.0, -math.inf], [-math.inf, 0.0])
    )
    assert divergence(plain, ruled_out).item() == 0.0
    assert divergence(plain, other).item() == math.inf
