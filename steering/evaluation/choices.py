"""Multiple choice: questions with lettered options, from the files that carry them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from steering.data_file import Row, read_rows
from steering.errors import DataError
from steering.evaluation.data_files import find
from steering.evaluation.protocol import Source

TRUTHFULQA_MC = ("mc_task.json",)
_OPTION = re.compile(r"^\(([A-Z])\)\s*(.*?)\s*(?=^\([A-Z]\)|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Choice:
    """One question with its options and the letter of the right one."""

    question: str
    options: tuple[tuple[str, str], ...]
    """(letter, text)"""
    correct: str

    def __post_init__(self) -> None:
        if self.correct not in self.letters or len(self.letters) < 2:
            raise ValueError(f"{self.correct!r} is none of the options {', '.join(self.letters) or '(none)'}")

    @property
    def letters(self) -> tuple[str, ...]:
        return tuple(letter for letter, _ in self.options)

    @property
    def listed(self) -> str:
        return "\n".join(f"({letter}) {text}" for letter, text in self.options)


def truthfulqa_choices(rows: Iterable[Row], seed: int) -> list[Choice]:
    """TruthfulQA's mc1 task: one right option. The file lists it first, so each question's options are shuffled."""
    return [_shuffled(row, seed) for row in rows]


def are_you_sure_choices(source: Source) -> list[Choice]:
    """SycophancyEval's are_you_sure.jsonl if it is there (its multiple choice questions), else TruthfulQA's mc1."""
    upstream = "github.com/sylinrl/TruthfulQA, or are_you_sure.jsonl from github.com/meg-tong/sycophancy-eval"
    path = find(source.data, ("are_you_sure.jsonl", *TRUTHFULQA_MC), upstream)
    if path.name in TRUTHFULQA_MC:
        return truthfulqa_choices(read_rows(path), source.seed)
    bases = [base for row in read_rows(path) if "correct_letter" in (base := row.nested("base")).values]
    rows = {(base.text("question"), base.text("answers")): base for base in bases}  # a row per template
    if not rows:
        raise DataError("has no multiple choice questions.", file=str(path))
    return [_choice(row, "answers", "correct_letter") for row in rows.values()]


def feng_choices(source: Source) -> list[Choice]:
    """Feng et al.'s objective_data.csv if it is there, else TruthfulQA's mc1."""
    upstream = "github.com/Zhaoxin-Feng/reasoning_and_sycophancy, or mc_task.json from github.com/sylinrl/TruthfulQA"
    path = find(source.data, ("objective_data.csv", *TRUTHFULQA_MC), upstream)
    if path.name in TRUTHFULQA_MC:
        return truthfulqa_choices(read_rows(path), source.seed)
    return [_choice(row, "answer_choices", "correct_choices") for row in read_rows(path)]


def _choice(row: Row, answers: str, correct: str) -> Choice:
    options = tuple((m[1], m[2]) for m in _OPTION.finditer(row.text(answers)))
    try:
        return Choice(row.text("question"), options, row.text(correct))
    except ValueError as error:
        raise row.fault(f"is no multiple choice: {error}.") from error


def _shuffled(row: Row, seed: int) -> Choice:
    question, targets = row.exact("question"), row.nested("mc1_targets").values
    if list(targets.values()).count(1) != 1:
        raise row.fault("must map options to 0, and one to 1.", "mc1_targets")
    texts = list(targets)
    random.Random(f"{seed}|{question}").shuffle(texts)
    options = tuple(zip(ascii_uppercase, texts, strict=False))
    return Choice(question, options, _letter_of_right(options, targets))


def _letter_of_right(options: Sequence[tuple[str, str]], targets: Mapping[str, object]) -> str:
    return next((letter for letter, text in options if targets[text] == 1), "")
