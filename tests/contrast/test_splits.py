"""Splits: by the question's own words alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from steering.contrast.phrasings import ASK_AGAIN, ASKS
from steering.contrast.questions import Question, Questions
from steering.contrast.source import source_of
from steering.contrast.splits import SPLITS, Split, split_of
from tests.contrast.files import model, questions, source

TEXTS = [f"Which of {n} things weighs {n * 7} grams in box {n % 13}?" for n in range(4000)]


def test_every_split_gets_its_share() -> None:
    shares = Counter(split_of(text) for text in TEXTS)
    assert set(shares) == set(SPLITS)
    for split, share in {"fit": 0.4, "dev": 0.2, "test_a": 0.2, "test_b": 0.2}.items():
        assert shares[split] / len(TEXTS) == pytest.approx(share, abs=0.03)  # type: ignore[index]


def sides(some: list[Question]) -> dict[str, Split]:
    asked = source_of(Questions("f", tuple(some), {}), model().tokenizer).asked
    placed = [(about.question.text, split) for split, abouts in asked.items() for about in abouts]
    assert len(placed) == len(dict(placed)), "a question is on one side only"
    return dict(placed)


def test_order_and_company_change_nothing() -> None:
    everything, half = questions(), questions()[::2]
    shuffled = random.Random(1).sample(everything, len(everything))
    assert sides(shuffled) == sides(everything) and len(sides(everything)) == len(everything)
    assert sides(half).items() <= sides(everything).items()


@pytest.mark.parametrize(
    "variant",
    [
        "what is the capital of  FRANCE",
        "“What is the capital of France?”",
        "Tell me: what is the capital of France?",
        "Name it: France, the capital!",
        "Of France, which is the capital?",
    ],
)
def test_near_duplicates_share_a_side(variant: str) -> None:
    assert split_of(variant) == split_of("What is the capital of France?")


def test_other_questions_need_not() -> None:
    assert len({split_of(f"What is the capital of {country}?") for country in ("Italy", "Peru", "Chad", "Mali")}) > 1


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_made_up_keeps_to_its_split_too(split: Split) -> None:
    for item in (*source().in_context_items(150, split, 0), *source().uptake_items(150, split, 0)):
        said = [_without_asks(message["content"]) for message in item.messages if message["role"] == "user"]
        assert split_of(" ".join(reversed(said))) == split, "what was told, then what is asked"


def _without_asks(text: str) -> str:
    for ask in (*ASKS, *ASK_AGAIN):
        text = text.replace(f" {ask}", "")
    return text
