"""The scheduler against a pretended model: slots are lists of positions, a forward writes what it is told to run."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from steering.correction import Correction
from steering.edit import Shift
from steering.engine.kv_size import KvSize
from steering.engine.memory import KvMemory
from steering.engine.request import Request, SamplingParams, Token
from steering.engine.scheduler import Batch, Scheduler
from steering.engine.sequence import Sequence, Status
from steering.errors import QueueFull
from steering.gate import Gate
from steering.model.attention import SlotKV
from steering.plan import Plan
from steering.site import Site
from tests.engine.spy import name_of
from tests.plans import BOTH, steered

MAX_ROWS, BUDGET, QUEUE = 4, 10, 6
ON_PROMPTS = steered(Correction("push", Site("resid_post", 0), Shift(torch.ones(1)), Gate(phases=BOTH)))


def sequence(name: str, num_prompt: int, max_tokens: int = 3) -> Sequence:
    return sequences(name, num_prompt, max_tokens)[0]


def sequences(
    name: str, num_prompt: int, max_tokens: int, *, n: int = 1, plan: Plan | None = None, compare: bool = False
) -> list[Sequence]:
    request = Request(name, tuple(range(num_prompt)), SamplingParams(max_tokens), plan or Plan(), n, compare)
    return [Sequence(choice, detokenizer=None) for choice in request.choices]  # type: ignore[arg-type]


class Slots(KvMemory):
    """One number a position: keys hold its owner, values the position."""

    def __init__(self, max_rows: int = MAX_ROWS, *, context: int = 32, budget: int | None = None) -> None:
        """budget: in tokens"""
        budget = max_rows * context if budget is None else budget
        size = KvSize(max_rows, context, 8, deterministic=False, budget=8 * budget)
        super().__init__(size, self._make, cache_limit=0)
        self.owners: dict[str, int] = {}
        self.shared = 0

    @staticmethod
    def _make(slots: int, length: int) -> SlotKV:
        return SlotKV(slots=slots, shape=(length, 1, 1), dtype=torch.float32, devices=[torch.device("cpu")])

    def share(self, donor: Sequence, sequence: Sequence, length: int) -> None:
        assert donor is not sequence
        self.shared += length > 0
        super().share(donor, sequence, length)

    def write(self, sequence: Sequence, position: int) -> None:
        kv = self.pool_of(sequence).kv
        kv.keys[0][sequence.slot, position] = self.owner(sequence, position)
        kv.values[0][sequence.slot, position] = position

    def holds(self, sequence: Sequence) -> bool:
        kv, count = self.pool_of(sequence).kv, sequence.num_computed
        owners = [self.owner(sequence, p) for p in range(count)]
        keys, values = (caches[0][sequence.slot, :count, 0, 0].tolist() for caches in (kv.keys, kv.values))
        return keys == owners and values == list(range(count))

    def spoil(self) -> None:
        """Nobody may rely on what stays behind in a free slot."""
        for pool in self.pools:
            free = [i for i in range(pool.kv.slots) if i >= len(pool.residents) or pool.residents[i] is None]
            pool.kv.keys[0][free] = -1.0

    def owner(self, sequence: Sequence, position: int) -> int:
        """A prompt is that of all sequences of its key; the rest is one's own."""
        own = name_of(sequence.request.id, sequence.request.index)
        name = str(sequence.prompt_key) if position < sequence.num_prompt - 1 else own
        return self.owners.setdefault(name, len(self.owners))


def scheduler(slots: Slots, *, deterministic: bool, max_rows: int = MAX_ROWS, queue: int = QUEUE) -> Scheduler:
    return Scheduler(slots, max_rows=max_rows, prefill_tokens=BUDGET, queue=queue, deterministic=deterministic)


def run(batch: Batch, slots: Slots) -> list[Sequence]:
    """Pretends a forward: writes and commits; returns who is done."""
    for row in batch.rows:
        slots.write(row, row.num_computed)
        row.commit(Token(0), is_stop=False)
    for chunk in batch.chunks:
        for position in range(chunk.start, chunk.start + chunk.length):
            slots.write(chunk.sequence, position)
        chunk.sequence.advance_prefill(chunk.length)
    return [row for row in batch.rows if row.num_generated == row.request.sampling.max_tokens]


def check(batch: Batch, sched: Scheduler, slots: Slots, *, deterministic: bool) -> None:
    assert sorted(s.slot for s in sched.running) == list(range(len(sched.running)))
    assert len(sched.running) <= MAX_ROWS
    assert slots.nbytes <= slots.size.budget
    assert all(s.status is Status.RUNNING for s in sched.running)
    assert [s.slot for s in batch.rows] == list(range(len(batch.rows))), "decode rows are not dense"
    assert all(s.num_to_prefill == 0 for s in batch.rows)
    assert all(slots.holds(s) for s in sched.running), "a slot does not hold its sequence"
    assert sum(c.length for c in batch.chunks) <= BUDGET
    assert all(c.length > 0 and c.start == c.sequence.num_computed for c in batch.chunks)
    assert len({id(s) for s in batch.sequences}) == len(batch.sequences), "one sequence twice in a step"
    if deterministic:
        assert not (batch.rows and batch.chunks)
        assert len(batch.chunks) <= 1
        assert all(c.start % BUDGET == 0 for c in batch.chunks)


@pytest.mark.parametrize("deterministic", [False, True], ids=["default", "deterministic"])
def test_C2_invariants_under_random_schedules(deterministic: bool) -> None:
    seen: Counter[str] = Counter()
    for seed in range(120):
        _random_schedule(random.Random(seed), deterministic, seen)
    kinds = ("copied", "refused", "aborts", "split", "partial aborts", "rows full", "shared", "apart", "inherited")
    assert min(seen[kind] for kind in kinds) > 20, seen


def _random_schedule(dice: random.Random, deterministic: bool, seen: Counter[str]) -> None:
    slots, live, added = Slots(), list[Sequence](), 0
    sched, computed = scheduler(slots, deterministic=deterministic), Counter[tuple[str, str]]()
    to_compute: dict[tuple[str, str], int] = {}
    for step in range(300):
        for _ in range(dice.choice((0, 0, 1, 2)) if step < 60 else 0):
            new = _add(sched, _random_request(dice, str(added)), seen)
            added += bool(new)
            live += new
            to_compute |= {s.prompt_key: s.num_prompt - 1 for s in new}
        batch = sched.schedule()
        check(batch, sched, slots, deterministic=deterministic)
        assert bool(batch) == bool(live), "work was there and nothing ran"
        seen["split"] += any(c.start > 0 for c in batch.chunks)
        seen["rows full"] += len(batch.rows) == MAX_ROWS
        computed.update({c.sequence.prompt_key: c.length for c in batch.chunks})
        done = run(batch, slots)
        assert sum(s.num_to_prefill > 0 for s in sched.running) <= 1, "two prompts are half-way"
        dice.shuffle(done)
        if live and dice.random() < 0.1:  # all answers of a request
            chosen = dice.choice(live).request.id
            victims = [s for s in live if s.request.id == chosen]
            done = [s for s in done if s not in victims] + victims
            seen["aborts"] += 1
            seen["partial aborts"] += any(s.status is Status.RUNNING and s.num_to_prefill > 0 for s in victims)
            to_compute = {key: count for key, count in to_compute.items() if key[0] != chosen}
        for finished in done:
            running = len(sched.running) - (finished.status is Status.RUNNING)
            sched.remove(finished)
            live.remove(finished)
            assert finished.status is Status.FINISHED
            seen["inherited"] += len(sched.running) > running
        waits = [s.status is Status.WAITING for s in live]
        assert waits == sorted(waits), "not first come, first served"
        slots.spoil()
    assert not (live or sched.running or sched.waiting)
    assert {key: computed[key] for key in to_compute} == to_compute, "a prompt was not computed exactly once"
    seen["copied"] += slots.shared


def _add(sched: Scheduler, new: list[Sequence], seen: Counter[str]) -> list[Sequence]:
    """What was taken: all or nothing."""
    try:
        sched.add(*new)
    except QueueFull:
        assert len({s.request.id for s in sched.waiting}) == QUEUE
        seen["refused"] += 1
        return []
    seen["shared" if len({s.prompt_key for s in new}) < len(new) else "apart"] += len(new) > 1
    return new


def _random_request(dice: random.Random, name: str) -> list[Sequence]:
    """Now and then with several answers, or with two that cannot share their prompt."""
    lengths = dice.choice((1, 2, 5, 11, 12, 25)), dice.randint(1, 6)
    kind = dice.random()
    if kind < 0.1:
        return sequences(name, *lengths, plan=ON_PROMPTS, compare=True)
    return sequences(name, *lengths, n=dice.choice((2, 3, 9)) if kind < 0.4 else 1)


def test_budget_is_shared_in_order_of_arrival() -> None:
    slots = Slots()
    sched = scheduler(slots, deterministic=False)
    for name, length in (("a", 5), ("b", 1), ("c", 14), ("d", 4)):
        sched.add(sequence(name, length))
    first = sched.schedule()
    assert [(c.sequence.request.id, c.start, c.length) for c in first.chunks] == [("a", 0, 4), ("c", 0, 6)]
    run(first, slots)
    second = sched.schedule()
    assert {s.request.id for s in second.rows} == {"a", "b"}
    assert [(c.sequence.request.id, c.start, c.length) for c in second.chunks] == [("c", 6, 7), ("d", 0, 3)]


def test_deterministic_prompts_and_decode_take_turns() -> None:
    slots = Slots()
    sched = scheduler(slots, deterministic=True)
    for name, length in (("a", 4), ("b", 31), ("c", 3)):
        sched.add(sequence(name, length, max_tokens=9))
    kinds = []
    for _ in range(8):
        batch = sched.schedule()
        kinds.append(("prompt " + batch.chunks[0].sequence.request.id) if batch.chunks else f"{len(batch.rows)} rows")
        run(batch, slots)
    assert kinds == ["prompt a", "1 rows", "prompt b", "1 rows", "prompt b", "1 rows", "prompt b", "2 rows"]


def test_O_queue_full_refuses_and_keeps_the_others() -> None:
    sched = scheduler(Slots(), deterministic=False)
    for i in range(QUEUE):
        sched.add(sequence(str(i), 2))
    with pytest.raises(QueueFull, match="6 requests are already waiting"):
        sched.add(sequence("late", 2))
    assert [s.request.id for s in sched.waiting] == [str(i) for i in range(QUEUE)]
    sched.schedule()
    sched.add(sequence("now there is room", 2))


@pytest.mark.parametrize("gone", ["a", "b", "c", "d"])
def test_removing_any_of_a_full_house_closes_the_hole(gone: str) -> None:
    """a, b, c decode and d is half-way through its prompt."""
    slots = Slots()
    sched = scheduler(slots, deterministic=False)
    for name, length in (("a", 2), ("b", 2), ("c", 2), ("d", 25)):
        sched.add(sequence(name, length, max_tokens=50))
    for _ in range(2):
        run(sched.schedule(), slots)
    assert [bool(s.num_to_prefill) for s in sched.running] == [False, False, False, True]
    victim = next(s for s in sched.running if s.request.id == gone)
    sched.remove(victim)
    batch = sched.schedule()
    check(batch, sched, slots, deterministic=False)
    assert {s.request.id for s in sched.running} == {"a", "b", "c", "d"} - {gone}


def test_answers_to_one_prompt_start_when_it_is_computed_and_stay_in_order() -> None:
    slots = Slots()
    sched = scheduler(slots, deterministic=False)
    sched.add(*sequences("many", 15, 2, n=3))
    sched.add(sequence("next", 4))
    seen = []
    while batch := sched.schedule():
        rows = [name_of(s.request.id, s.request.index) for s in batch.rows]
        seen.append((rows, [(c.sequence.request.id, c.start, c.length) for c in batch.chunks]))
        for done in run(batch, slots):
            sched.remove(done)
    assert seen[:3] == [
        ([], [("many", 0, 10)]),
        ([], [("many", 10, 4)]),
        (["many", "many#1", "many#2"], [("next", 0, 3)]),
    ]
    assert seen[3][0] == ["many", "many#1", "many#2", "next"]


def test_one_row_is_enough_to_compute_a_prompt_once() -> None:
    slots = Slots()
    sched = scheduler(slots, deterministic=True, max_rows=1, queue=1)
    sched.add(*sequences("many", 5, 2, n=16))
    steps = 0
    while batch := sched.schedule():
        steps += 1
        assert bool(batch.chunks) == (steps == 1)
        for done in run(batch, slots):
            sched.remove(done)
        assert all(slots.holds(s) for s in sched.running)
    assert steps == 1 + 16 * 2 and slots.shared == 0


def test_a_wiped_prompt_is_taken_over_by_nobody() -> None:
    slots = Slots()
    sched = scheduler(slots, deterministic=False)
    sched.add(*sequences("many", 5, 9, n=2))
    run(sched.schedule(), slots)
    (first,) = sched.running
    slots.wipe(first)
    sched.remove(first)
    batch = sched.schedule()
    assert [(c.sequence.request.index, c.start, c.length) for c in batch.chunks] == [(1, 0, 4)]
