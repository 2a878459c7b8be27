"""What long commands say of how far they are: lines for people, objects for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from steering.commands.progress import JsonLines, reported


class Told:
    """A clock that is moved by hand, and what is said meanwhile."""

    def __init__(self, unit: str) -> None:
        self.now, self.lines, self.waiting = 0.0, list[str](), list[tuple[float, Callable[[], None]]]()
        self.progress = JsonLines(unit, self.lines.append, lambda: self.now, self.later)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self.waiting.append((self.now + seconds, call))

    def passes(self, seconds: float) -> None:
        self.now += seconds
        due = [call for when, call in self.waiting if when <= self.now]
        self.waiting = [(when, call) for when, call in self.waiting if when > self.now]
        for call in due:
            call()

    @property
    def objects(self) -> list[dict[str, Any]]:
        assert all("\n" not in line for line in self.lines)
        return [json.loads(line) for line in self.lines]


def test_a_burst_is_told_together_and_either_end_at_once() -> None:
    told = Told("answers")
    told.progress.start("gsm8k, off", 10)
    told.passes(4)
    for _ in range(4):
        told.progress.advance()
    told.passes(0.9)
    assert len(told.objects) == 1
    told.passes(0.1)
    for _ in range(6):
        told.passes(0.25)
        told.progress.advance()
    told.passes(9)
    told.progress.log("a line\nof two")
    assert [one.get("done") for one in told.objects] == [0, 4, 8, 10, None, None]
    assert told.objects[0] == {
        "stage": "gsm8k, off",
        "done": 0,
        "total": 10,
        "unit": "answers",
        "message": "gsm8k, off: 0 of about 10 answers",
    }
    assert told.objects[1]["eta_s"] == pytest.approx(7.5) and told.objects[3]["eta_s"] == 0
    assert told.objects[4:] == [{"log": "a line"}, {"log": "of two"}]


def test_a_guess_that_was_too_low_is_corrected() -> None:
    told = Told("steps")
    told.progress.start("growing", 1)
    for _ in range(3):
        told.progress.advance()
        told.passes(2)
    assert [(one["done"], one["total"]) for one in told.objects] == [(0, 1), (1, 1), (2, 2), (3, 3)]


def test_without_a_terminal_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with reported("auto", "answers") as told:
        told.start("gsm8k", 40)
        for _ in range(42):
            told.advance()
        told.start("few", 2)
        for _ in range(2):
            told.advance()
        told.log("done")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "gsm8k: about 40",
        *(f"gsm8k: {tenth} %" for tenth in range(10, 101, 10)),
        "few: about 2",
        "few: 50 %",
        "few: 100 %",
        "done",
    ]
