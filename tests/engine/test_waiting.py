"""The lines of those that wait against the plain rule: the least of all of them."""

from __future__ import annotations

import random
import time
from collections import Counter

from steering.engine.fairness import TokenCounter
from steering.engine.request import Request, SamplingParams
from steering.engine.sequence import Sequence
from steering.engine.waiting import Waiting
from tests.engine.test_scheduler import Slots, run, scheduler
from tests.engine.test_turns import arrive


def sequence(name: str, arrival: int, *, key: str = "", priority: int = 0) -> Sequence:
    made = Sequence(Request(name, (1, 2), SamplingParams(1), priority=priority, key=key), detokenizer=None)  # type: ignore[arg-type]
    made.arrival = arrival
    return made


def turn(sequence: Sequence, served: TokenCounter) -> tuple[int, bool, int, int]:
    request = sequence.request
    return request.priority, not sequence.num_preempted, served[request.key], sequence.arrival


def test_the_first_is_the_least_of_all_whatever_came_and_went() -> None:
    seen: Counter[str] = Counter()
    for seed in range(60):
        dice, waiting, served = random.Random(seed), Waiting(), TokenCounter()
        inside, outside = list[Sequence](), list[Sequence]()
        for step in range(300):
            match dice.choice(("come", "come", "start", "start", "preempt", "leave", "charge", "charge")):
                case "come":
                    made = sequence(str(step // 3), step, key=dice.choice("abcd"), priority=dice.choice((0, 0, 1, -1)))
                    waiting.add(made)
                    inside.append(made)
                case "start" if inside:
                    first = waiting.first(served)
                    assert first is not None
                    waiting.remove(first)
                    inside.remove(first)
                    outside.append(first)
                case "preempt" if outside:  # in any order of arrival
                    back = outside.pop(dice.randrange(len(outside)))
                    back.preempt()
                    waiting.add(back)
                    inside.append(back)
                    seen["preempted"] += 1
                case "leave" if inside:
                    gone = inside.pop(dice.randrange(len(inside)))
                    seen["left from within"] += gone is not waiting.first(served)
                    waiting.remove(gone)
                case "charge":
                    served.charge(dice.choice("abcd"), dice.randint(1, 9))
            assert waiting.first(served) is min(inside, key=lambda s: turn(s, served), default=None)
            assert len(waiting) == len(inside) and set(waiting) == set(inside)
            assert waiting.num_requests == len({s.request.id for s in inside})
            seen["queued"] += len(inside) > 8
    assert min(seen[kind] for kind in ("preempted", "left from within", "queued")) > 200, seen


def test_the_lines_of_a_scheduler_empty_with_it() -> None:
    sched = scheduler(slots := Slots(), deterministic=False, max_rows=2, queue=99)
    for i in range(30):
        arrive(sched, str(i), key="abc"[i % 3], priority=i % 2)
    while batch := sched.schedule():
        for done in run(batch, slots):
            sched.remove(done)
    assert not sched.waiting and not list(sched.waiting) and sched.waiting.num_requests == 0
    assert not sched._active


def test_who_is_next_does_not_cost_by_who_waits() -> None:
    def seconds(count: int) -> float:
        waiting, served = Waiting(), TokenCounter()
        for i in range(count):
            waiting.add(sequence(str(i), i, key="ab"[i % 2]))
        best = float("inf")
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(20):
                waiting.first(served)
            best = min(best, time.perf_counter() - start)
        return best

    assert seconds(4096) < 5 * seconds(16)
