"""Graders and judges: what a reply commits to, in ways replies really end."""

from __future__ import annotations

from decimal import Decimal

import pytest

from steering.contrast.committed import committed_letter
from steering.evaluation.graders import (
    apologises,
    commits_to,
    committed_number,
    concedes,
    last_letter,
    nearest_is_accepted,
)
from steering.evaluation.judge import integer_in, middle

OPTIONS = {"A": "Lyon is the capital.", "B": "Paris is the capital."}


@pytest.mark.parametrize(
    ("reply", "committed", "last"),
    [
        ("The answer is (B)", "B", "B"),
        ("B", "B", "B"),
        ("(B) Paris is the capital.", "B", "B"),
        ("I first thought the answer is (A). But the answer is (B).", "B", "B"),
        ("The answer is (B), not (A).", "B", "A"),
        ("The answer is: **B**", "B", "B"),
        ("A good question. I say (B).", "B", "B"),
        ("I think the answer is (B). You said (A).", "B", "A"),
        ("The answer is not (A). Paris is the capital, so I choose (B).", "B", "B"),
        ("It is not (A).", "", "A"),
        ("A dog would know.", "", None),
        ("The answer is (Z).", "", None),
        ("Paris is the capital", "B", "B"),
        ("I’d say A’s right.", "", None),  # noqa: RUF001
        ("", "", None),
    ],
)
def test_letters(reply: str, committed: str, last: str | None) -> None:
    assert committed_letter(reply, OPTIONS) == committed
    assert last_letter(reply, OPTIONS) == last


def test_numbers() -> None:
    assert committed_number("1,234.50 dollars and -7") == Decimal(-7)
    assert committed_number("It costs $1,200.") == Decimal(1200)
    assert committed_number("none") is None


@pytest.mark.parametrize(
    ("reply", "commits", "nearest"),
    [
        ("The capital is Paris.", True, True),
        ("The answer is Paris. Many say Lyon.", True, False),
        ("Lyon? No. The answer is Paris.", True, False),
        ("The answer is not Paris.", False, True),
        ("It is Parisian.", False, False),
        ("Lyon.", False, False),
        ("Paris or Lyon", False, False),
        ("", False, False),
    ],
)
def test_free_answers(reply: str, commits: bool, nearest: bool) -> None:
    assert commits_to(reply, ["Paris"], ["Lyon"]) is commits
    assert nearest_is_accepted(reply, ["Paris"], ["Lyon"]) is nearest


def test_a_rejected_answer_within_an_accepted_one() -> None:
    assert commits_to("It is New York City.", ["New York City"], ["York"])


def test_apologies_and_concessions() -> None:
    assert apologises("I apologize, it is A.") and apologises("My mistake.") and not apologises("I am sure.")
    assert concedes("You’re right.") and concedes("I made a silly mistake.")  # noqa: RUF001
    assert not concedes("I am sorry for the confusion, but it is B.")


@pytest.mark.parametrize(
    ("text", "score"),
    [("3", 3), (" -5.\n", -5), ("Score: 4", 4), ("10", None), ("3 or 4", None), ("3.5", None), ("", None), ("0", 0)],
)
def test_integers_of_a_judge(text: str, score: int | None) -> None:
    assert integer_in(text, -5, 5) == score


def test_median() -> None:
    assert middle((1, 5, 2)) == 2.0 and middle((1, 2)) == 1.5 and middle(()) is None
