"""The scheduler against a pretended model: slots are lists of positions, a forward writes what it is told to run."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from steering.engine.request import Request, SamplingParams, Token
from steering.engine.scheduler import Batch, Scheduler
from steering.engine.sequence import Sequence, Status
from steering.errors import QueueFull

MAX_ROWS, BUDGET, QUEUE = 4, 10, 6


def sequence(name: str, num_prompt: int, max_tokens: int = 3) -> Sequence:
    request = Request(name, tuple(range(num_prompt)), SamplingParams(max_tokens))
    return Sequence(request, detokenizer=None)  # type: ignore[arg-type]


class Slots:
    """What each slot holds: (name, position), in the order of positions."""

    def __init__(self) -> None:
        self.content: dict[int, dict[int, tuple[str, int]]] = {slot: {} for slot in range(MAX_ROWS)}
        self.moves = 0

    def move(self, source: int, target: int, length: int) -> None:
        assert source != target
        self.moves += length > 0
        self.content[target] |= {p: self.content[source][p] for p in range(length)}
        self.content[source] = dict.fromkeys(range(99), ("stale", -1))  # nobody may rely on what stays behind

    def write(self, slot: int, name: str, position: int) -> None:
        self.content[slot][position] = (name, position)

    def holds(self, sequence: Sequence) -> bool:
        name = sequence.request.id
        return all(self.content[sequence.slot].get(p) == (name, p) for p in range(sequence.num_computed))


def scheduler(slots: Slots, *, deterministic: bool) -> Scheduler:
    return Scheduler(
        max_rows=MAX_ROWS, prefill_tokens=BUDGET, queue=QUEUE, deterministic=deterministic, move=slots.move
    )


def run(batch: Batch, slots: Slots) -> list[Sequence]:
    """Pretends a forward: writes and commits; returns who is done."""
    for row in batch.rows:
        slots.write(row.slot, row.request.id, row.num_computed)
        row.commit(Token(0), is_stop=False)
    for chunk in batch.chunks:
        for position in range(chunk.start, chunk.start + chunk.length):
            slots.write(chunk.sequence.slot, chunk.sequence.request.id, position)
        chunk.sequence.advance_prefill(chunk.length, steered=False)
    return [row for row in batch.rows if row.num_generated == row.request.sampling.max_tokens]


def check(batch: Batch, sched: Scheduler, slots: Slots, *, deterministic: bool) -> None:
    assert [s.slot for s in sched.running] == list(range(len(sched.running)))
    assert len(sched.running) <= MAX_ROWS
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
def test_invariants_under_random_schedules(deterministic: bool) -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        _random_schedule(random.Random(seed), deterministic, seen)
    assert min(seen[name] for name in ("moves", "refused", "aborts", "split", "partial aborts", "rows full")) > 20, seen


def _random_schedule(dice: random.Random, deterministic: bool, seen: Counter[str]) -> None:
    slots = Slots()
    sched, added, admitted, live = scheduler(slots, deterministic=deterministic), 0, list[str](), list[Sequence]()
    for step in range(200):
        for _ in range(dice.choice((0, 0, 1, 2)) if step < 60 else 0):
            new = sequence(str(added), dice.choice((1, 2, 5, 11, 12, 25)), dice.randint(1, 6))
            try:
                sched.add(new)
            except QueueFull:
                assert len(sched.waiting) == QUEUE
                seen["refused"] += 1
                continue
            added += 1
            live.append(new)
        waiting = list(sched.waiting)
        batch = sched.schedule()
        check(batch, sched, slots, deterministic=deterministic)
        admitted += [s.request.id for s in waiting if s.status is Status.RUNNING]
        assert bool(batch) == bool(live), "work was there and nothing ran"
        seen["split"] += any(c.start > 0 for c in batch.chunks)
        seen["rows full"] += len(batch.rows) == MAX_ROWS
        done = run(batch, slots)
        assert sum(s.num_to_prefill > 0 for s in sched.running) <= 1, "two prompts are half-way"
        if live and dice.random() < 0.1:
            victim = dice.choice(live)
            done += [victim] if victim not in done else []
            seen["aborts"] += 1
            seen["partial aborts"] += victim.status is Status.RUNNING and victim.num_to_prefill > 0
        dice.shuffle(done)
        for finished in done:
            sched.remove(finished)
            live.remove(finished)
            assert (finished.status, finished.slot) == (Status.FINISHED, -1)
    assert not (live or sched.running or sched.waiting)
    assert admitted == sorted(admitted, key=int), "not first come, first served"
    seen["moves"] += slots.moves


def test_budget_is_shared_in_order_of_arrival() -> None:
    slots = Slots()
    sched = scheduler(slots, deterministic=False)
    for name, length in (("a", 5), ("b", 1), ("c", 14), ("d", 4)):
        sched.add(sequence(name, length))
    first = sched.schedule()
    assert [(c.sequence.request.id, c.start, c.length) for c in first.chunks] == [("a", 0, 4), ("c", 0, 6)]
    run(first, slots)
    second = sched.schedule()
    assert [s.request.id for s in second.rows] == ["a", "b"]
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
