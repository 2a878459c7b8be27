"""No request can tell who else is served: under any schedule its answer is its solo answer.

Deterministic mode: token ids, log-probabilities, drifts and receipts bit for bit. Default mode: tokens equal,
log-probabilities within 1e-4. Free slots are full of large numbers, so that a stale or stray key would be seen.
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
from steering.engine import kv_size, memory, prefix_cache
from steering.engine.config import EngineConfig
from steering.engine.engine import MAX_SHED, Engine
from steering.engine.request import Completion, Request, SamplingParams, Token, TokenEvent
from steering.engine.runner import Forward
from steering.engine.scheduler import Batch
from steering.engine.sequence import Status
from steering.errors import QueueFull
from steering.gate import Gate
from steering.lens import LogitLens
from steering.model.loading import LanguageModel
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import Spy, drain, gather, name_of
from tests.models import VOCAB_SIZE, tiny_model
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
    watch, logit = Detector(tuned_lens(layout, 1), 0.5), Detector(LogitLens(1), 0.5, 16)
    patch = correction(Set, layout, z, gate=DRIFT)
    erase = correction(Project, layout, out, strength=0.7)
    made = [
        Plan(),
        steered(
            erase, correction(Shift, layout, Site("resid_post", 0), gate=Gate(phases=BOTH), strength=0.5), dola(0, 1)
        ),
        steered(patch, detector=watch, trace=True),
        steered(correction(Scale, layout, mlp, gate=LATCH), erase, detector=logit),
        steered(patch, contrast(gate=LATCH), detector=watch),
        Plan(mode="observe", detector=watch),
        steered(tuned(layout, layers=(0, 1))),
        steered(
            tuned(layout, layers=(1,), seed=1), tuned(layout, layers=(1,), strength=0.5, seed=2), patch, detector=watch
        ),
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
    """Every plan with every prompt; half of them greedy, half drawn; a third without log-probabilities; some with
    penalties, a bias or a scored prompt. Then some with several answers, which share their prompt or cannot."""
    samplings = itertools.cycle(
        [
            SamplingParams(9, temperature=0, logprobs=2),
            SamplingParams(12, temperature=1.2, seed=7, logprobs=0),
            SamplingParams(4, temperature=0),
            SamplingParams(11, temperature=0, logprobs=1, frequency_penalty=1.5, repetition_penalty=1.3),
            SamplingParams(7, temperature=0.8, top_p=0.9, top_k=40, seed=2**63, logprobs=5),
            SamplingParams(1, temperature=0, logprobs=1),
            SamplingParams(8, temperature=1.0, seed=3, logit_bias=((9, 100.0), (10, 98.0)), presence_penalty=2.0),
            SamplingParams(0, prompt_logprobs=2),
            SamplingParams(6, temperature=0, prompt_logprobs=0, stop_token_ids=tuple(range(40, 60))),
        ]
    )
    cells = itertools.product(plans(), prompts())
    single = [Request("", prompt, next(samplings), plan) for plan, prompt in cells]
    drawn = SamplingParams(6, temperature=1.2, seed=2**64 - 2, logprobs=1, prompt_logprobs=1, frequency_penalty=0.5)
    several = [
        Request("", prompt, drawn, plan, n=n)
        for plan, prompt, n in zip(plans()[::2], prompts()[2::2], (5, 2, 3), strict=False)
    ]
    compared = [
        Request("", prompt, drawn, plan, compare=True)
        for plan, prompt in zip(plans()[1:5:2], prompts()[4:], strict=False)
    ]
    weights = [
        Request("", prompts()[3], drawn, plans()[-2], n=3),
        Request("", prompts()[5], drawn, plans()[-2], compare=True),
    ]
    return [*single, *several, *compared, *weights]


def config(*, deterministic: bool, tight: bool = False) -> EngineConfig:
    """tight: memory for little more than two of the longest rows, and in default mode a prefix cache in it."""
    size = EngineConfig(max_rows=5, context=CONTEXT, prefill_tokens=16, queue=3, deterministic=deterministic)
    if not tight or deterministic:
        return replace(size, prefix_cache=0)
    token = model().layout.kv_bytes_per_token(model().dtype)
    return replace(size, kv_memory=130 * token, prefix_cache=96 * token)


@cache
def solo(index: int, choice: int, deterministic: bool) -> Completion:
    """One answer as a request of its own gets it, alone."""
    engine = Engine(model(), config(deterministic=deterministic))
    answer = engine.generate([replace(pool()[index].choices[choice], id="solo", index=0)])[0]
    engine.close()
    return answer


class Machine(RuleBasedStateMachine):
    """Adds, steps and aborts as it pleases; then everything still running comes to its end."""

    deterministic: ClassVar[bool]
    tight: ClassVar[bool]
    """Memory is short; and now and then a step runs out of it."""
    seen: ClassVar[Counter[str]]

    @initialize()
    def start(self) -> None:
        self.engine = Engine(model(), config(deterministic=self.deterministic, tight=self.tight))
        self.failures, self.shed, self.fails_next = 0, 0, False
        forward = self.engine._runner.forward

        def failing(batch: Batch) -> Forward:
            if self.fails_next and len(batch.sequences) > 1:
                self.fails_next, self.failures = False, self.failures + 1
                self.shed += len(batch.sequences) // 2
                raise torch.OutOfMemoryError
            return forward(batch)

        self.engine._runner.forward = failing  # type: ignore[method-assign]
        self.noise = torch.Generator().manual_seed(0)
        self.spy = Spy(self.engine)
        self.events: list[TokenEvent] = []
        self.added: dict[str, int] = {}
        self.aborted: set[str] = set()

    @rule(index=st.integers(0, 62))
    def add(self, index: int) -> None:
        name = str(len(self.added))
        try:
            whose = {"priority": index % 2, "key": str(index % 3)} if self.tight else {}
            self.engine.add(replace(pool()[index], id=name, **whose))
        except QueueFull:
            self.seen["refused"] += 1
        else:
            self.added[name] = index

    @precondition(lambda self: self.tight)
    @rule(indices=st.lists(st.integers(0, 62), min_size=4, max_size=6))
    def crowd(self, indices: list[int]) -> None:
        for index in indices:  # they outgrow the memory together
            self.add(index)

    @rule(count=st.sampled_from((1, 1, 2, 5, 9)))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.spoil_free_slots()
            self.events += self.engine.step()

    @torch.inference_mode()
    def spoil_free_slots(self) -> None:
        for pool in self.engine._memory.pools:
            free = [slot for slot in range(pool.kv.slots) if slot >= len(pool.residents) or not pool.residents[slot]]
            for layer in (*pool.kv.keys, *pool.kv.values):
                layer[free] = torch.empty_like(layer[free]).normal_(std=100.0, generator=self.noise)

    @precondition(lambda self: self.tight and self.failures < MAX_SHED)
    @rule()
    def run_out_of_memory(self) -> None:
        self.fails_next = True

    @precondition(lambda self: self.added)
    @rule(pick=st.integers(0, 2**16))
    def abort(self, pick: int) -> None:
        """Of a request under way, often of one in its prompt, now and then of any, long finished ones too."""
        under_way = list(self.engine._under_way)
        in_prompts = [name for name in under_way if _phase(self.engine._under_way[name][0]) == "in its prompt"]
        names = (in_prompts if pick % 3 == 0 else []) or (under_way if pick % 8 else []) or list(self.added)
        name = names[pick % len(names)]
        for sequence in self.engine._under_way.get(name, ()):
            self.aborted.add(name_of(name, sequence.request.index))
            self.seen[f"aborted {_phase(sequence)}"] += 1
        self.engine.abort(name)

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "engine"):
            assert self.engine.free_rows + self.engine.num_running == 5
            assert self.engine.kv_bytes <= self.engine.kv.budget
            under_way = sum(map(len, self.engine._under_way.values()))
            assert self.engine.num_running + self.engine.num_waiting == under_way

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        done = gather(self.events + drain(self.engine))
        expected = {
            name_of(name, choice.index): solo(index, choice.index, self.deterministic)
            for name, index in self.added.items()
            for choice in pool()[index].choices
        }
        assert done.keys() == expected.keys()
        for name, answer in done.items():
            self._check(answer, expected[name], aborted=name in self.aborted)
        assert (self.engine.free_rows, self.engine.num_waiting, self.engine.has_work) == (5, 0, False)
        pools = self.engine._memory.pools
        assert not any(any(pool.residents) for pool in pools)
        assert self.deterministic or all(pool.kv.slots <= 1 for pool in pools)
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
        if answer.tokens or not aborted:
            self._check_prompt(answer, alone)
        tokens = alone.tokens[: len(answer.tokens)]
        assert [t.id for t in answer.tokens] == [t.id for t in tokens]
        for token, expected in zip(answer.tokens, tokens, strict=True):
            if self.deterministic:
                assert _bits(token) == _bits(expected)
            else:
                assert token.logprob == pytest.approx(expected.logprob, abs=TOLERANCE)

    def _check_prompt(self, answer: Completion, alone: Completion) -> None:
        if self.deterministic:
            assert answer.prompt == alone.prompt
        for token, expected in zip(answer.prompt[1:], alone.prompt[1:], strict=True):
            assert token.logprob == pytest.approx(expected.logprob, abs=TOLERANCE)

    def _count(self) -> None:
        steps = self.spy.steps
        self.seen["schedules"] += 1
        self.seen["requests"] += len(self.added)
        self.seen["steps out of memory"] += self.failures
        self.seen["shed"] += self.shed
        self.seen["preemptions"] += self.engine.num_preemptions - self.shed
        self.seen["restored"] += self.engine.prefix_cache.hits
        self.seen["evicted"] += self.engine.prefix_cache.evictions
        self.seen["shares"] += len(self.spy.shares)
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


def run(*, deterministic: bool, schedules: int, tight: bool = False) -> Counter[str]:
    counter: Counter[str] = Counter()
    machine = type("Schedules", (Machine,), {"deterministic": deterministic, "tight": tight, "seen": counter})
    assert len(pool()) == 63
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
    "shares",
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
    assert {name: seen[name] for name in EVENTS if seen[name] < 10} == {}
    assert seen["prompts between decodes"] > 100
    assert seen["mixed steps"] == 0


def test_C2_default_schedules_change_no_token() -> None:
    seen = run(deterministic=False, schedules=300)
    assert {name: seen[name] for name in EVENTS if seen[name] < 1} == {}
    assert seen["mixed steps"] > 100


def test_O5_short_memory_changes_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of four length classes that preempt each other, a cache that gives way to them, steps that fail."""
    monkeypatch.setattr(kv_size, "SHORTEST", 16)
    monkeypatch.setattr(prefix_cache, "BLOCK", 8)
    monkeypatch.setattr(memory, "BLOCK", 8)
    seen = run(deterministic=False, schedules=60, tight=True)
    assert all(seen[name] for name in ("preemptions", "shed", "evicted", "shares", "retries", "moves")), seen


def test_X8_deterministic_replay_is_invisible_bit_for_bit() -> None:
    seen = run(deterministic=True, schedules=60, tight=True)
    assert {name: seen[name] for name in ("shed", "steps out of memory", "retries") if seen[name] < 10} == {}


def test_solo_answers_differ_and_gates_split_them() -> None:
    """What the schedules are compared with is worth comparing."""
    answers = [solo(i, 0, True) for i in range(len(pool()))]
    assert len({tuple(t.id for t in a.tokens) for a in answers}) > 0.75 * len(answers)
    assert sum(bool(a.prompt) for a in answers) > 10
    assert sum(a.finish.receipt.applied for a in answers) > 20
    assert sum(bool(a.finish.receipt.fired_tokens) for a in answers) > 10
    unfired = [a for a, r in zip(answers, pool(), strict=True) if r.plan.measures and not a.finish.receipt.fired_tokens]
    assert len(unfired) > 3
