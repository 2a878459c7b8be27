"""No request can tell who else is served: under any schedule its answer is its solo answer.

Deterministic mode: token ids, log-probabilities, drifts and receipts bit for bit. Default mode: tokens equal,
log-probabilities within 1e-4. Free slots are full of large numbers, so that a stale or stray key would be seen.
"""

from __future__ import annotations

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

from steering.engine import kv_size, memory, prefix_cache
from steering.engine.engine import MAX_SHED, Engine
from steering.engine.request import Completion, Token, TokenEvent
from steering.engine.runner import Forward
from steering.engine.scheduler import Batch
from steering.engine.sequence import Status
from steering.errors import QueueFull
from tests.engine.spy import Spy, drain, gather, name_of
from tests.laws.pool import config, exempting, model, pool

TOLERANCE = 1e-4


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

    @rule(index=st.integers(0, 65))
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
    @rule(indices=st.lists(st.integers(0, 65), min_size=4, max_size=6))
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
        for some in self.engine._memory.pools:
            free = [slot for slot in range(some.kv.slots) if slot >= len(some.residents) or not some.residents[slot]]
            for layer in (*some.kv.keys, *some.kv.values):
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
    assert len(pool()) == 66
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
    assert all(0 < a.finish.receipt.exempt_tokens < a.finish.receipt.tokens for a in answers[-len(exempting()) :])
    assert sum(a.finish.receipt.applied for a in answers) > 20
    assert sum(bool(a.finish.receipt.fired_tokens) for a in answers) > 10
    unfired = [a for a, r in zip(answers, pool(), strict=True) if r.plan.measures and not a.finish.receipt.fired_tokens]
    assert len(unfired) > 3
