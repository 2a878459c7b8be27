"""No request can tell who else is served: under any schedule its answer is its solo answer.

Deterministic mode: token ids, log-probabilities, drifts and receipts bit for bit. Default mode: tokens equal,
log-probabilities within 1e-4. The slots start full of large numbers, so that a stale or stray key would be seen.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import ClassVar

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from steering.edit import Project, Scale, Set, Shift
from steering.engine.engine import Engine, EngineConfig
from steering.engine.request import Completion, Request, SamplingParams, Token, TokenEvent
from steering.engine.sequence import Status
from steering.errors import QueueFull
from steering.gate import Gate
from steering.lens import LogitLens
from steering.model.loading import LanguageModel
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import Spy, drain, gather
from tests.models import VOCAB_SIZE, tiny_model
from tests.plans import (
    BOTH,
    DRIFT,
    LATCH,
    contrast,
    correction,
    separating_threshold,
    steered,
    tuned_lens,
    with_threshold,
)

CONTEXT = 80
TOLERANCE = 1e-4
ALWAYS, GATED = Gate(), "gated"


@cache
def model() -> LanguageModel:
    return tiny_model(
        num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2
    )


@cache
def plans() -> list[Plan]:
    layout, z, mlp, out = model().layout, Site("attn_z", 1), Site("mlp_act", 1), Site("resid_post", 1)
    tuned, logit = Detector(tuned_lens(layout, 1), 0.5), Detector(LogitLens(1), 0.5, 16)
    erase = correction(Project, layout, out, strength=0.7)
    made = [
        Plan(),
        steered(erase, correction(Shift, layout, Site("resid_post", 0), gate=Gate(phases=BOTH), strength=0.5)),
        steered(correction(Set, layout, z, gate=DRIFT), detector=tuned, trace=True),
        steered(correction(Scale, layout, mlp, gate=LATCH), erase, detector=logit),
        steered(correction(Set, layout, z, gate=DRIFT), contrast(gate=LATCH), detector=tuned),
        Plan(mode="observe", detector=tuned),
    ]
    return [plan if plan.detector is None else with_threshold(plan, _middle_drift(plan)) for plan in made]


def _middle_drift(plan: Plan) -> float:
    watching = replace(plan, mode="observe", trace="tokens")
    answers = Engine(model(), config(deterministic=True)).generate(
        [Request(str(i), prompt, SamplingParams(10, temperature=0), watching) for i, prompt in enumerate(prompts())]
    )
    return separating_threshold([t.reading.drift for answer in answers for t in answer.tokens if t.reading])


@cache
def prompts() -> list[tuple[int, ...]]:
    noise = torch.Generator().manual_seed(3)
    return [tuple(torch.randint(6, VOCAB_SIZE, (n,), generator=noise).tolist()) for n in (1, 2, 7, 16, 17, 33, 55)]


@cache
def pool() -> list[Request]:
    """Every plan with every prompt; half of them greedy, half drawn; a third without log-probabilities."""
    samplings = itertools.cycle(
        [
            SamplingParams(9, temperature=0, logprobs=2),
            SamplingParams(12, temperature=1.2, seed=7, logprobs=0),
            SamplingParams(4, temperature=0),
            SamplingParams(7, temperature=0.8, top_p=0.9, top_k=40, seed=2**63, logprobs=5),
            SamplingParams(1, temperature=0, logprobs=1),
        ]
    )
    cells = itertools.product(plans(), prompts())
    return [Request("", prompt, next(samplings), plan) for plan, prompt in cells]


def config(*, deterministic: bool) -> EngineConfig:
    return EngineConfig(max_rows=5, context=CONTEXT, prefill_tokens=16, queue=3, deterministic=deterministic)


@cache
def solo(index: int, deterministic: bool) -> Completion:
    engine = Engine(model(), config(deterministic=deterministic))
    answer = engine.generate([replace(pool()[index], id="solo")])[0]
    engine.close()
    return answer


class Machine(RuleBasedStateMachine):
    """Adds, steps and aborts as it pleases; then everything still running comes to its end."""

    deterministic: ClassVar[bool]
    seen: ClassVar[Counter[str]]

    @initialize()
    def start(self) -> None:
        self.engine = Engine(model(), config(deterministic=self.deterministic))
        kv = self.engine._runner.kv
        for layer in (*kv.keys, *kv.values):
            layer.normal_(std=100.0, generator=torch.Generator().manual_seed(0))
        self.spy = Spy(self.engine)
        self.events: list[TokenEvent] = []
        self.added: dict[str, int] = {}
        self.aborted: set[str] = set()

    @rule(index=st.integers(0, 41))
    def add(self, index: int) -> None:
        name = str(len(self.added))
        try:
            self.engine.add(replace(pool()[index], id=name))
        except QueueFull:
            self.seen["refused"] += 1
        else:
            self.added[name] = index

    @rule(count=st.integers(1, 9))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.events += self.engine.step()

    @precondition(lambda self: self.added)
    @rule(pick=st.integers(0, 2**16))
    def abort(self, pick: int) -> None:
        """Of a request under way, now and then of any, long finished ones too."""
        under_way = list(self.engine._sequences)
        names = under_way if under_way and pick % 8 else list(self.added)
        name = names[pick % len(names)]
        if sequence := self.engine._sequences.get(name):
            self.aborted.add(name)
            self.seen[f"aborted {_phase(sequence)}"] += 1
        self.engine.abort(name)

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "engine"):
            assert self.engine.free_rows + self.engine.num_running == 5
            assert self.engine.num_running + self.engine.num_waiting == len(self.engine._sequences)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        done = gather(self.events + drain(self.engine))
        assert done.keys() == self.added.keys()
        for name, answer in done.items():
            self._check(answer, solo(self.added[name], self.deterministic), aborted=name in self.aborted)
        assert (self.engine.free_rows, self.engine.num_waiting, self.engine.has_work) == (5, 0, False)
        self.engine.close()
        self._count()

    def _check(self, answer: Completion, alone: Completion, *, aborted: bool) -> None:
        if aborted:
            assert answer.finish.reason == "abort"
            assert alone.text.startswith(answer.text)
        else:
            assert answer.text == alone.text
            assert answer.finish.reason == alone.finish.reason
            assert _rounded(answer, self.deterministic) == _rounded(alone, self.deterministic)
        tokens = alone.tokens[: len(answer.tokens)]
        assert [t.id for t in answer.tokens] == [t.id for t in tokens]
        for token, expected in zip(answer.tokens, tokens, strict=True):
            if self.deterministic:
                assert _bits(token) == _bits(expected)
            else:
                assert token.logprob == pytest.approx(expected.logprob, abs=TOLERANCE)

    def _count(self) -> None:
        steps = self.spy.steps
        self.seen["schedules"] += 1
        self.seen["requests"] += len(self.added)
        self.seen["moves"] += sum(length > 0 for _, _, length in self.spy.moves)
        self.seen["retries"] += self.spy.retries
        self.seen["mixed steps"] += sum(bool(step.rows and step.chunks) for step in steps)
        self.seen["full steps"] += sum(len(step.rows) == 5 for step in steps)
        self.seen["split prompts"] += len(self.spy.split_prompts)
        running = [set(step.rows) for step in steps]
        self.seen["prompts between decodes"] += sum(
            bool(step.chunks and not step.rows and before & after)
            for before, step, after in zip(running, steps[1:], running[2:], strict=False)
        )


def _phase(sequence: object) -> str:
    if sequence.status is Status.WAITING:  # type: ignore[attr-defined]
        return "waiting"
    if sequence.num_to_prefill:  # type: ignore[attr-defined]
        return "in its prompt"
    return "before its retry" if sequence.retrying else "decoding"  # type: ignore[attr-defined]


def _rounded(answer: Completion, exact: bool) -> object:
    """The receipt, whose drift is exact only in deterministic mode."""
    receipt = answer.finish.receipt
    drift = receipt.max_drift
    return receipt if exact or drift is None else replace(receipt, max_drift=round(drift, 3))


def _bits(token: Token) -> object:
    """All a token carries; of a reading's lists only the first entry is there whatever the neighbours trace."""
    reading = token.reading
    if reading is not None:
        token = replace(token, reading=replace(reading, early=reading.early[:1], late=reading.late[:1]))
    return token


def run(*, deterministic: bool, schedules: int) -> Counter[str]:
    counter: Counter[str] = Counter()
    machine = type("Schedules", (Machine,), {"deterministic": deterministic, "seen": counter})
    assert len(pool()) == 42
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=schedules,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return counter


EVENTS = (
    "moves",
    "retries",
    "refused",
    "full steps",
    "split prompts",
    "aborted waiting",
    "aborted in its prompt",
    "aborted decoding",
    "aborted before its retry",
)


def test_C2_deterministic_schedules_are_invisible_bit_for_bit() -> None:
    seen = run(deterministic=True, schedules=500)
    assert seen["schedules"] >= 500
    assert {name: seen[name] for name in EVENTS if seen[name] < 20} == {}
    assert seen["prompts between decodes"] > 100
    assert seen["mixed steps"] == 0


def test_C2_default_schedules_change_no_token() -> None:
    seen = run(deterministic=False, schedules=60)
    assert {name: seen[name] for name in EVENTS if seen[name] < 3} == {}
    assert seen["mixed steps"] > 100


def test_solo_answers_differ_and_gates_split_them() -> None:
    """What the schedules are compared with is worth comparing."""
    answers = [solo(i, True) for i in range(len(pool()))]
    assert len({tuple(t.id for t in a.tokens) for a in answers}) > 0.75 * len(answers)
    assert sum(a.finish.receipt.applied for a in answers) > 20
    assert sum(bool(a.finish.receipt.fired_tokens) for a in answers) > 10
    unfired = [a for a, r in zip(answers, pool(), strict=True) if r.plan.measures and not a.finish.receipt.fired_tokens]
    assert len(unfired) > 3
