"""Who goes next: priorities, fairness across keys, and what happens where memory runs out."""

from __future__ import annotations

from itertools import pairwise

from steering.engine.fairness import TokenCounter
from steering.engine.request import Request, SamplingParams
from steering.engine.scheduler import Scheduler
from steering.engine.sequence import Sequence
from tests.engine.test_scheduler import BUDGET, Slots, run, scheduler


def arrive(sched: Scheduler, name: str, *, key: str = "", priority: int = 0, prompt: int = 2, tokens: int = 3) -> None:
    request = Request(name, tuple(range(prompt)), SamplingParams(tokens), priority=priority, key=key)
    sched.add(Sequence(request, detokenizer=None))  # type: ignore[arg-type]


def play(sched: Scheduler, slots: Slots, steps: int = 1000) -> list[str]:
    """Names in the order in which they started."""
    started = list[str]()
    for _ in range(steps):
        batch = sched.schedule()
        if not batch:
            break
        started += [s.request.id for s in batch.sequences if s.request.id not in started]
        for done in run(batch, slots):
            sched.remove(done)
        assert all(slots.holds(s) for s in sched.running)
    return started


def test_a_lower_priority_number_goes_first() -> None:
    sched = scheduler(slots := Slots(), deterministic=False, max_rows=1, queue=9)
    for name, priority in (("a", 1), ("b", 0), ("c", -1), ("d", 0), ("e", 1)):
        arrive(sched, name, priority=priority)
    assert play(sched, slots) == ["c", "b", "d", "a", "e"]


def test_an_urgent_prompt_goes_before_one_under_way() -> None:
    sched = scheduler(slots := Slots(), deterministic=False)
    arrive(sched, "long", prompt=30, priority=1)
    run(sched.schedule(), slots)
    arrive(sched, "urgent", prompt=8)
    batch = sched.schedule()
    assert [(c.sequence.request.id, c.length) for c in batch.chunks] == [("urgent", 7), ("long", BUDGET - 7)]


def test_O6_a_key_that_floods_leaves_others_their_turn() -> None:
    sched = scheduler(slots := Slots(), deterministic=False, max_rows=1, queue=99)
    for i in range(40):
        arrive(sched, f"flood {i}", key="flood")
    play(sched, slots, steps=20)
    for i in range(3):
        arrive(sched, f"other {i}", key="other")
    order = play(sched, slots)
    others = [order.index(f"other {i}") for i in range(3)]
    assert max(others) <= 6, "they take turns from the moment they come"
    assert [name for name in order if name.startswith("flood")] == sorted(
        (name for name in order if name.startswith("flood")), key=lambda name: int(name.split()[1])
    )


def test_keys_are_served_alike_whatever_their_requests_cost() -> None:
    sched = scheduler(slots := Slots(), deterministic=False, max_rows=1, queue=99)
    for i in range(8):
        arrive(sched, f"big {i}", key="big", prompt=9, tokens=8)
    for i in range(32):
        arrive(sched, f"small {i}", key="small", prompt=3, tokens=2)
    order = play(sched, slots)
    at = [order.index(f"big {i}") for i in range(8)]
    between = [later - earlier - 1 for earlier, later in pairwise(at)]
    assert all(3 <= count <= 5 for count in between[1:-1]), "24 to 6: four small ones a big one"


def test_time_without_requests_gives_no_claim() -> None:
    counter = TokenCounter()
    counter.join("a", set())
    counter.charge("a", 1000)
    counter.join("b", {"a"})
    assert counter["b"] == 1000
    counter.charge("b", 5)
    counter.join("c", {"a", "b"})
    assert counter["c"] == 1000
    counter.charge("a", 100)
    counter.join("c", {"a"})
    assert counter["c"] == 1100 and counter["b"] == 0, "b would be lifted too, and is forgotten"
    counter.join("b", set())
    assert counter["b"] == 0, "all begin anew"


def test_keys_that_took_more_than_their_share_keep_their_debt() -> None:
    counter = TokenCounter()
    counter.join("a", set())
    counter.join("b", {"a"})
    counter.charge("b", 50)
    counter.join("c", {"a"})
    counter.join("b", {"a", "c"})
    assert (counter["a"], counter["b"], counter["c"]) == (0, 50, 0)


def test_rows_that_run_get_a_token_each_step_whatever_prompts_come() -> None:
    sched = scheduler(slots := Slots(), deterministic=False)
    arrive(sched, "stream", tokens=25)
    play(sched, slots, steps=2)
    arrive(sched, "long", prompt=30, tokens=1)
    arrive(sched, "too", prompt=30, tokens=1)
    for _ in range(6):
        batch = sched.schedule()
        assert batch.rows[0].request.id == "stream" and sum(c.length for c in batch.chunks) <= BUDGET
        run(batch, slots)


def test_O5_rows_wait_for_memory_and_none_is_taken_beyond_the_budget() -> None:
    slots = Slots(budget=64)
    sched = scheduler(slots, deterministic=False)
    for name in "abcd":
        arrive(sched, name, tokens=5)
    run(sched.schedule(), slots)
    assert [s.request.id for s in sched.running] == ["a", "b"] and slots.nbytes == 64 * 8
    assert play(sched, slots) == ["a", "b", "c", "d"]


def test_O4_what_is_aborted_while_it_waits_is_never_prefilled() -> None:
    sched = scheduler(slots := Slots(), deterministic=False, max_rows=1)
    for name in "abc":
        arrive(sched, name)
    run(sched.schedule(), slots)
    sched.remove(next(s for s in sched.waiting if s.request.id == "b"))
    assert play(sched, slots) == ["a", "c"]
