"""What long commands say of how far they are: lines for people, objects for programs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steering.commands.progress import JsonLines, reported


def test_an_object_a_second_and_one_at_either_end() -> None:
    now, lines = [0.0], list[str]()
    told = JsonLines("answers", lines.append, lambda: now[0])
    told.start("gsm8k, off", 10)
    for _ in range(10):
        now[0] += 0.4
        told.advance()
    told.log("a line\nof two")
    objects: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert all("\n" not in line for line in lines)
    assert [one.get("done") for one in objects] == [0, 3, 6, 9, 10, None, None]
    assert objects[0] == {
        "stage": "gsm8k, off",
        "done": 0,
        "total": 10,
        "unit": "answers",
        "message": "gsm8k, off: 0 of about 10 answers",
    }
    assert objects[2]["eta_s"] == pytest.approx(1.6) and objects[4]["eta_s"] == 0
    assert objects[5:] == [{"log": "a line"}, {"log": "of two"}]


def test_a_guess_that_was_too_low_is_corrected() -> None:
    now, lines = [0.0], list[str]()
    told = JsonLines("steps", lines.append, lambda: now[0])
    told.start("growing", 1)
    for _ in range(3):
        now[0] += 2
        told.advance()
    assert [(one["done"], one["total"]) for one in map(json.loads, lines)] == [(0, 1), (1, 1), (2, 2), (3, 3)]


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
