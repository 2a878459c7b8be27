"""Prompts beside rows that decode: their chunks are so long that a step takes about as long as it may."""

from __future__ import annotations

from collections import Counter

import pytest

from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.pace import FIRST, LEAST, RENEW, Pace
from steering.engine.request import Request, SamplingParams
from steering.engine.scheduler import Batch, Scheduler
from tests.engine.spy import drain
from tests.engine.test_scheduler import Slots, run
from tests.engine.test_turns import arrive
from tests.models import tiny_model

MOST = 512


def seconds(batch: Batch, *, step: float = 1.0, each: float = 0.02) -> float:
    """Of a pretended machine: a step, and each prompt token."""
    return step + each * sum(chunk.length for chunk in batch.chunks)


def paced(slots: Slots, *, deterministic: bool = False, stretch: float = 2.0, rows: int = 4) -> Scheduler:
    return Scheduler(
        slots, max_rows=rows, prefill_tokens=MOST, queue=9, deterministic=deterministic, prefill_stretch=stretch
    )


def play(sched: Scheduler, slots: Slots, steps: int, **machine: float) -> list[Batch]:
    batches = []
    for _ in range(steps):
        batch = sched.schedule()
        sched.observe(batch, seconds(batch, **machine))
        for done in run(batch, slots):
            sched.remove(done)
        batches.append(batch)
    return batches


def lengths(batches: list[Batch]) -> list[int]:
    return [sum(chunk.length for chunk in batch.chunks) for batch in batches]


def test_a_step_with_a_prompt_takes_about_twice_as_long_as_one_without() -> None:
    """One without, when whoever sent the prompt has its row in it, too: 1 + 0.02."""
    sched = paced(slots := Slots(context=2048))
    arrive(sched, "stream", tokens=500)
    play(sched, slots, 12)
    arrive(sched, "long", prompt=1000, tokens=1)
    batches = play(sched, slots, 30)
    taken = [seconds(batch) for batch in batches if batch.chunks]
    assert lengths(batches)[0] == FIRST and max(taken) <= 2.041 and min(taken[1:-1]) > 2.0
    assert sum(lengths(batches)) == 999 and all("stream" in {s.request.id for s in b.rows} for b in batches)


def test_a_slow_machine_gets_few_tokens_and_a_fast_one_all() -> None:
    for each, expected in ((0.5, LEAST), (0.0, MOST), (0.001, MOST), (0.01, 102)):
        sched = paced(slots := Slots(context=2048))
        arrive(sched, "stream", tokens=500)
        play(sched, slots, 12, each=each)
        arrive(sched, "long", prompt=2000)
        assert lengths(play(sched, slots, 3, each=each))[1:] == pytest.approx([expected] * 2, abs=1)


def test_where_nothing_decodes_prompts_are_not_held_back() -> None:
    sched = paced(slots := Slots(context=2048))
    arrive(sched, "long", prompt=1500, tokens=1)
    assert lengths(play(sched, slots, 3)) == [512, 512, 475]


def test_before_anything_was_measured_a_step_without_prompts_is() -> None:
    sched = paced(slots := Slots(context=2048))
    arrive(sched, "stream", tokens=500)
    arrive(sched, "long", prompt=500)
    (first, second) = lengths(play(sched, slots, 2))
    assert (first, second) == (500, 0), "the first step has prompts alone"
    arrive(sched, "longer", prompt=500)
    assert lengths(play(sched, slots, 1)) == [FIRST]


def test_now_and_then_a_step_has_no_prompts_so_that_what_it_costs_is_known_anew() -> None:
    pace = Pace(2.0, MOST)
    pace.observe(1.0, rows=1, tokens=0)
    for _ in range(RENEW):
        tokens = pace.budget(1, 1)
        assert tokens > 0
        pace.observe(1.5, rows=1, tokens=tokens)
    assert pace.budget(1, 1) == 0
    pace.observe(1.0, rows=1, tokens=0)
    assert pace.budget(1, 1) > 0


def test_those_that_wait_for_memory_do_not_come() -> None:
    sched = paced(slots := Slots(context=2048, budget=2048))
    arrive(sched, "stream", tokens=200)
    play(sched, slots, 12)
    for name in ("long", "longer", "longest"):
        arrive(sched, name, prompt=1000, tokens=1)
    (first, *taken) = [n for n in lengths(play(sched, slots, 70)) if n]
    assert first == FIRST and sum(taken) + first == 3 * 999 and not sched.waiting
    three, one = 50 + 2 * 3, 50 + 2 * 1
    assert Counter(taken[:17])[three] > 12, "all come, as far as is known"
    assert max(taken[19:]) == one, "there is room for one beside the stream"
    most = []
    for names in ("abc", "def"):  # short ones: all find room
        for name in names:
            arrive(sched, name, prompt=200, tokens=12)
        most.append(max(lengths(play(sched, slots, 40))))
    assert most[0] < three <= most[1] and not sched.waiting


def test_one_step_that_was_held_up_decides_nothing() -> None:
    pace = Pace(2.0, MOST)
    for _ in range(8):
        pace.observe(1.0, rows=4, tokens=0)
        pace.observe(1.5, rows=4, tokens=50)
    assert pace.budget(4, 1) == 102
    pace.observe(60.0, rows=4, tokens=0)
    pace.observe(60.0, rows=4, tokens=10)
    assert pace.budget(4, 1) == 102


def test_those_that_come_count_as_if_they_had_come() -> None:
    """A step of n rows takes 1 + 0.1 n. Eight come: 1.5 times a step of as many rows as there will be, at any time."""
    pace = Pace(1.5, MOST)
    for _ in range(8):
        pace.observe(1.1, rows=1, tokens=0)
        pace.observe(2.1, rows=1, tokens=10)
    for rows in range(1, 9):
        took = 1 + 0.1 * (rows + pace.budget(rows, 9 - rows))
        assert took == pytest.approx(1.5 * 1.9, abs=0.101), "in whole tokens"
        pace.observe(took, rows=rows, tokens=pace.budget(rows, 9 - rows))
    assert pace.budget(1, 0) == LEAST, "one row that goes on alone is not slowed down for eight that were there"


def test_many_that_come_at_once_all_start_soon() -> None:
    sched = paced(slots := Slots(context=2048), stretch=1.5, rows=8)
    arrive(sched, "stream", tokens=500)
    play(sched, slots, 12, step=0.1, each=0.1)
    for i in range(7):
        arrive(sched, f"{i}", prompt=20, tokens=400)
    batches = play(sched, slots, 30, step=0.1, each=0.1)
    assert next(i for i, batch in enumerate(batches) if len(batch.rows) == 8) < 15 < 7 * 19 / LEAST


def test_prompt_steps_beside_nobody_and_a_clock_that_stands_still_do_no_harm() -> None:
    pace = Pace(2.0, 4)
    pace.observe(9.0, rows=0, tokens=500)
    assert pace.budget(1, 1) == 0
    pace.observe(0.0, rows=1, tokens=0)
    assert pace.budget(1, 1) == 4, "fewer than the least"
    pace.observe(0.0, rows=1, tokens=4)
    assert pace.budget(1, 1) == 4


def test_deterministic_mode_has_no_pace() -> None:
    sched = paced(slots := Slots(context=2048), deterministic=True)
    arrive(sched, "stream", tokens=500)
    play(sched, slots, 3)
    arrive(sched, "long", prompt=600)
    assert MOST in lengths(play(sched, slots, 2))


def test_answers_are_the_same_at_any_pace() -> None:
    model = tiny_model()

    def answers(stretch: float) -> tuple[list[list[int]], list[int]]:
        """Token ids, and the prompt tokens of each step in which rows decoded; a token adds a tenth of a step."""
        engine, events, beside = Engine(model, EngineConfig(max_rows=4, prefill_stretch=stretch)), [], list[int]()
        observe = engine._scheduler.observe

        def pretend(batch: Batch, _: float) -> None:
            observe(batch, seconds(batch, each=0.1))
            beside.extend(lengths([batch]) if batch.rows else [])

        engine._scheduler.observe = pretend  # type: ignore[method-assign]
        for i, length in enumerate((20, 150, 90, 7)):
            prompt = tuple(6 + (5 * i + k) % 200 for k in range(length))
            engine.add(Request(str(i), prompt, SamplingParams(24, temperature=0)))
            events += engine.step()
        events += drain(engine)
        engine.close()
        return [[e.token.id for e in events if e.request_id == str(i) and e.token] for i in range(4)], beside

    (free, at_once), (paced, in_parts) = answers(0.0), answers(2.0)
    assert free == paced and [len(ids) for ids in free] == [24] * 4
    assert max(at_once) >= 89 and max(in_parts) == FIRST and in_parts.count(16) > 5, "10, and twice the three that come"


@pytest.mark.parametrize("stretch", [1.0, 0.5, -1.0, float("inf"), float("nan")])
def test_a_stretch_is_above_one(stretch: float) -> None:
    with pytest.raises(ValueError, match="prefill_stretch must be 0 or above 1"):
        EngineConfig(prefill_stretch=stretch)
