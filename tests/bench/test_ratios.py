"""The bench's arithmetic: ratios with their intervals, goals, and what is written of them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from steering.evaluation.stats import Interval
from tests.bench import goals, names, report
from tests.bench.__main__ import kept
from tests.bench.ratios import ENOUGH_ROUNDS, Goal, Measured, costing, median_interval, speed_ratio
from tests.bench.rounds import Cell, Contest, Observation, deadlines
from tests.bench.streams import Answer, gap_figures


def test_equal_ratios_leave_no_doubt() -> None:
    assert median_interval([1.25] * 15) == Interval(1.25, 1.25, 1.25)


def test_interval_covers_the_median_it_was_drawn_around() -> None:
    """As often as it says: 95 %, less what a bootstrap of 15 medians falls short of."""
    drawn = np.random.default_rng(0).normal(1.0, 0.1, size=(200, 15))
    covered = [interval.low <= 1.0 <= interval.high for interval in map(median_interval, drawn)]
    assert 0.88 <= np.mean(covered) <= 0.99


def test_speed_ratio_pairs_the_rounds() -> None:
    """A machine that slows down by half and more changes no ratio."""
    slower = np.linspace(1.0, 3.0, 15)
    times = {"a": list(slower), "b": list(1.5 * slower)}
    assert speed_ratio(times, "a", "b") == Interval(*[pytest.approx(1.5)] * 3)


@pytest.mark.parametrize(
    ("goal", "interval", "rounds", "verdict"),
    [
        (Goal(1.05), Interval(1.2, 1.06, 1.3), 15, "met"),
        (Goal(1.05), Interval(1.2, 1.04, 1.3), 15, "not met"),
        (Goal(1.05), Interval(1.2, 1.06, 1.3), 14, "too few rounds"),
        (Goal(2.0, at_most=True), Interval(1.8, 1.7, 1.9), 15, "met"),
        (Goal(2.0, at_most=True), Interval(1.8, 1.7, 2.1), 15, "not met"),
    ],
)
def test_goal_is_met_by_the_bound(goal: Goal, interval: Interval, rounds: int, verdict: str) -> None:
    assert goal.verdict(interval, rounds) == verdict


def test_costs_are_times() -> None:
    """4 % more time: what took 1.00 s may take 1.04 s."""
    assert costing(0.04).bound == 1.00 / 1.04


def test_goals_are_of_their_sizes() -> None:
    assert goals.goal(names.COMPILED, names.STATIC, "88M", 8) == Goal(1.02)
    assert goals.goal(names.COMPILED, names.STATIC, "9M", 8) is None
    assert goals.goal(names.PRESENT_OFF, names.OFF, "9M", 128) == costing(0.02)
    known = {value for name, value in vars(names).items() if name.isupper()}
    assert {part for pair in [*goals.BY_SIZE, *goals.ALWAYS] for part in pair} <= known


def test_contenders_take_turns_in_both_orders() -> None:
    order: list[str] = []

    def turn(name: str) -> float:
        order.append(name)
        return 1.0

    contest = Contest({name: lambda name=name: turn(name) for name in "ab"}, 4, (("a", "b"),))  # type: ignore[misc]
    assert contest.times(2) == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    assert "".join(order) == "ababba"


def test_time_that_is_up_ends_the_rounds_early() -> None:
    late = Contest({"a": lambda: 1.0}, 4, ())
    assert len(late.times(9, deadline=0.0)["a"]) == 2
    first, second = deadlines(0.0, 2)
    assert first is not None and second is not None and first <= second
    assert list(deadlines(None, 2)) == [None, None]


def test_gaps_in_the_window_are_against_all() -> None:
    """One gap of 0.4 s while the prompt is read, ten of 0.1 s before and after."""
    times = [0.1 * i for i in range(6)] + [0.9 + 0.1 * i for i in range(6)]
    worst, median = gap_figures([Answer(times)], 0.51, 0.89)
    assert (worst, median) == (pytest.approx(0.4), pytest.approx(0.1))


CELL = Cell("decode", "88M", 8, 128, lambda: nullcontext(Contest({}, 0, ())))


def test_report_tells_every_contender_once_and_every_ratio() -> None:
    contest = Contest({}, 512, ((names.COMPILED, names.STATIC), (names.COMPILED, names.GENERATE)))
    times = {names.COMPILED: [1.0] * 15, names.STATIC: [1.1] * 15, names.GENERATE: [2.0] * 15}
    lines = report.measured(CELL, contest, times)
    assert [(line.name, line.to, line.verdict) for line in lines] == [
        (names.STATIC, "", ""),
        (names.GENERATE, "", ""),
        (names.COMPILED, names.STATIC, "met"),
        (names.COMPILED, names.GENERATE, ""),
    ]
    assert lines[2].speed == 512 and lines[3].ratio == Interval(2.0, 2.0, 2.0)


def test_observation_is_no_speed() -> None:
    seen = Observation(lambda: {"p99": 0.3, "median": 0.2}, (("p99", "median"),))
    line = report.measured(CELL, seen, seen.times(3))[-1]
    assert line.speed is None and line.ratio == Interval(*[pytest.approx(1.5)] * 3) and line.rounds == 3


def test_json_and_picture_hold_what_was_found(tmp_path: Path) -> None:
    line = Measured("decode", "88M", 8, 128, "a", 512.0, "b", Interval(1.1, 1.06, 1.2), ENOUGH_ROUNDS, Goal(1.05))
    report.write_json(tmp_path / "speed.json", report.document([line], {"json": tmp_path, "rounds": 15}, ["absent: c"]))
    written = json.loads((tmp_path / "speed.json").read_text())
    assert written["results"][0]["verdict"] == "met"
    assert written["results"][0]["ratio"] == {"estimate": 1.1, "low": 1.06, "high": 1.2}
    assert written["notes"] == ["absent: c"] and written["machine"]["torch"]
    report.draw(tmp_path / "speed.svg", [line])
    assert "a / b, 88M, 8, 128" in (tmp_path / "speed.svg").read_text()
    assert report.table([line], "speed").row_count == 1


def test_parts_are_added_to_what_was_measured_before(tmp_path: Path) -> None:
    """And take the place of what the same cell gave then."""
    before = [
        Measured("decode", "88M", batch, 128, names.COMPILED, 512.0, names.STATIC, Interval(1.1, 1.0, 1.2), 15, None)
        for batch in (1, 8)
    ]
    path = tmp_path / "performance.json"
    notes = [f"{CELL}: absent: c", "decode, 88M, batch 1, context 128: d"]
    report.write_json(path, report.document(before, {}, notes))
    lines, told = kept(path, [CELL])
    assert [line.batch for line in lines] == [1] and told == notes[1:]
    assert lines[0].ratio == before[0].ratio and lines[0].goal == Goal(1.05)
