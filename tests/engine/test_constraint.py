"""The engine's side of constraints, with guides made by hand: bits against a naive loop, ends, failures, retries."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from steering.edit import Set
from steering.engine.config import EngineConfig
from steering.engine.constraint import restrict
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.errors import EngineFailure
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import Spy, ids
from tests.models import VOCAB_SIZE, tiny_model
from tests.plans import DRIFT, correction, steered, tuned_lens


@dataclass
class Among:
    """Both a constraint and a guide: tokens of a set, so many of them."""

    token_ids: frozenset[int]
    length: int = 10**6
    fails_at: int = 10**6
    taken: list[int] = field(default_factory=list)
    guides: list[Among] = field(default_factory=list)

    def start(self) -> Among:
        self.guides.append(Among(self.token_ids, self.length, self.fails_at))
        return self.guides[-1]

    def write_mask(self, mask: Tensor) -> None:
        bits = torch.zeros(len(mask) * 32, dtype=torch.int64)
        bits[list(self.token_ids)] = 1
        mask.copy_((bits.view(-1, 32) << torch.arange(32)).sum(-1).to(torch.int32))

    def advance(self, token_id: int) -> None:
        self.taken.append(token_id)

    @property
    def complete(self) -> bool:
        return len(self.taken) == self.length

    @property
    def failed(self) -> bool:
        return len(self.taken) >= self.fails_at


@pytest.mark.parametrize("V", [7, 32, 384, 1001])
def test_what_is_not_allowed_is_ruled_out_and_no_other_row_changes(V: int) -> None:
    noise = torch.Generator().manual_seed(V)
    scores = torch.randn(5, V, generator=noise)
    scores[3, : V // 2] = -math.inf
    sets = {1: frozenset({0, V - 1}), 3: frozenset(torch.randperm(V, generator=noise)[: V // 3 + 1].tolist())}
    expected = scores.clone()
    for row, allowed in sets.items():
        for i in range(V):
            expected[row, i] = max(float(scores[row, i]), -1e30) if i in allowed else -math.inf
    restrict({row: Among(allowed) for row, allowed in sets.items()}, scores)
    assert torch.equal(scores, expected)


def serve(*requests: Request) -> tuple[list[Completion], Spy]:
    engine = Engine(tiny_model(), EngineConfig(max_rows=4, context=96))
    spy = Spy(engine)
    answers = engine.generate(requests)
    assert not engine.has_work
    engine.close()
    return answers, spy


def request(constraint: Among, plan: Plan | None = None, **fields: object) -> Request:
    sampling = SamplingParams(20, seed=4, constraint=constraint)
    return Request("a", (9, 8, 7), replace(sampling, **fields), plan or Plan())  # type: ignore[arg-type]


EVEN = frozenset(range(100, VOCAB_SIZE, 2))
KINDS: list[dict[str, object]] = [{}, {"temperature": 0}, {"top_p": 0.5}, {"top_k": 3, "presence_penalty": 1.5}]


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_only_allowed_tokens_are_drawn_until_the_answer_is_complete(fields: dict[str, object]) -> None:
    (answer,), _ = serve(request(Among(EVEN, 6), **fields))
    assert answer.finish.reason == "stop" and len(answer.tokens) == answer.finish.completion_tokens == 6
    assert set(ids(answer)) <= EVEN
    (free,), _ = serve(replace(request(Among(EVEN)), sampling=SamplingParams(20, seed=4)))
    assert not set(ids(free)) <= EVEN


def test_a_position_that_runs_twice_moves_its_guide_once() -> None:
    layout, constraint = tiny_model().layout, Among(EVEN, 6)
    lens = Detector(tuned_lens(layout, 1), -1.0)
    plan = steered(correction(Set, layout, Site("attn_z", 1), gate=DRIFT), detector=lens)
    (answer,), spy = serve(request(constraint, plan))
    assert sum(len(step.retried) for step in spy.steps) == 6
    assert constraint.guides[0].taken == ids(answer)


def test_each_answer_has_its_own_guide() -> None:
    constraint = Among(EVEN, 6)
    answers, _ = serve(replace(request(constraint), n=3))
    assert sorted(g.taken for g in constraint.guides) == sorted(ids(a) for a in answers)
    assert len({tuple(ids(a)) for a in answers}) == 3


def test_a_constraint_that_fails_ends_its_answer_alone() -> None:
    other = Request("b", (5, 6), SamplingParams(20, temperature=0))
    (answer, beside), _ = serve(request(Among(EVEN, fails_at=3)), other)
    assert answer.finish.reason == "error" and isinstance(answer.finish.error, EngineFailure)
    assert len(answer.tokens) == 3
    assert ids(beside) == ids(serve(other)[0][0])
