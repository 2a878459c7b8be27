"""Side effects: how far a plan moves text that needs no correction, token by token, by the engine that serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.plan import Plan

AT_ONCE = 64
"""Texts whose distributions exist at the same time."""
WORST = 0.05
"""Share of tokens that the worst are."""
MAX_KL, MAX_PERPLEXITY, MAX_LENGTH = 1.0, 0.01, 0.05

Ids = tuple[int, ...]


@dataclass(frozen=True)
class SideEffects:
    """What a plan does to plain answers and to running text."""

    kl: float
    """Mean KL(plain || steered) of the plain answers' tokens, nats."""
    worst_kl: float
    """The same of the worst 5 % of them."""
    perplexity: float
    """Change of the perplexity of the texts, as a share."""
    length: float
    """Change of the answers' length, as a share."""

    @property
    def holds(self) -> bool:
        return self.worst_kl <= MAX_KL and self.perplexity <= MAX_PERPLEXITY and abs(self.length) <= MAX_LENGTH


def side_effects(
    engine: Engine, plan: Plan, prompts: Sequence[Ids], texts: Sequence[Ids], *, max_tokens: int
) -> SideEffects:
    """Under `plan` against none: the greedy answers to `prompts`, and `texts` taken as answers to their first token."""
    greedy = SamplingParams(max_tokens, temperature=0.0, distributions=True)
    divergences, plain_length, steered_length = list[Tensor](), 0, 0
    for first in range(0, len(prompts), AT_ONCE):
        asked = [(prompt, greedy) for prompt in prompts[first : first + AT_ONCE]]
        plain, steered = (_run(engine, p, asked) for p in (Plan(), plan))
        plain_length += sum(len(answer.tokens) for answer in plain)
        steered_length += sum(len(answer.tokens) for answer in steered)
        said = [(prompt, answer) for (prompt, _), answer in zip(asked, plain, strict=True) if answer.tokens]
        repeated = _run(engine, plan, [(prompt, forcing(_ids(answer), distributions=True)) for prompt, answer in said])
        divergences += [divergence(answer, again) for (_, answer), again in zip(said, repeated, strict=True)]
    kl = torch.cat(divergences)
    worst = kl.topk(max(1, round(WORST * len(kl)))).values
    return SideEffects(
        kl=kl.mean().item(),
        worst_kl=worst.mean().item(),
        perplexity=_perplexity(engine, plan, texts),
        length=steered_length / plain_length - 1,
    )


def forcing(ids: Ids, *, distributions: bool = False) -> SamplingParams:
    """The answer is `ids`, whatever would have been drawn."""
    return SamplingParams(
        len(ids), temperature=0.0, forced=ids, ignore_eos=True, logprobs=0, distributions=distributions
    )


def divergence(plain: Completion, steered: Completion) -> Tensor:
    """[tokens] KL(plain || steered) of one answer given under both, with distributions; nats. Infinite where the
    steered one rules out (-inf) what the plain one does not."""
    p, q = (torch.stack([t.distribution for t in a.tokens if t.distribution is not None]) for a in (plain, steered))
    return torch.where(p.exp() > 0.0, p.exp() * (p - q), 0.0).sum(-1)  # 0 * (p + inf) would be NaN


def _perplexity(engine: Engine, plan: Plan, texts: Sequence[Ids]) -> float:
    asked = [(text[:1], forcing(text[1:])) for text in texts]
    plain, steered = (torch.cat([_logprobs(a) for a in _run(engine, p, asked)]) for p in (Plan(), plan))
    return (plain.mean() - steered.mean()).exp().item() - 1


def _run(engine: Engine, plan: Plan, asked: Sequence[tuple[Ids, SamplingParams]]) -> list[Completion]:
    answers = engine.generate([Request(str(i), ids, sampling, plan) for i, (ids, sampling) in enumerate(asked)])
    for answer in answers:
        if answer.finish.error:
            raise answer.finish.error
    return answers


def _ids(answer: Completion) -> Ids:
    return tuple(token.id for token in answer.tokens)


def _logprobs(answer: Completion) -> Tensor:
    return torch.tensor([token.logprob for token in answer.tokens])
