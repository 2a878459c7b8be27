"""Multiple choice: questions with lettered options, from the files that carry them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from steering.errors import DataFileError
from steering.evaluation.data_files import Row, find, read_csv, read_json, read_jsonl
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
    return [_shuffled(row["question"], row["mc1_targets"], seed) for row in rows]


def are_you_sure_choices(source: Source) -> list[Choice]:
    """SycophancyEval's are_you_sure.jsonl if it is there (its multiple choice questions), else TruthfulQA's mc1."""
    upstream = "github.com/sylinrl/TruthfulQA, or are_you_sure.jsonl from github.com/meg-tong/sycophancy-eval"
    path = find(source.data, ("are_you_sure.jsonl", *TRUTHFULQA_MC), upstream)
    if path.name in TRUTHFULQA_MC:
        return truthfulqa_choices(read_json(path, ("question", "mc1_targets")), source.seed)
    bases = [row["base"] for row in read_jsonl(path, ("base",)) if "correct_letter" in row["base"]]
    rows = {(base["question"], base["answers"]): base for base in bases}  # a row per template
    return _choices(path.name, rows.values(), "answers", "correct_letter")


def feng_choices(source: Source) -> list[Choice]:
    """Feng et al.'s objective_data.csv if it is there, else TruthfulQA's mc1."""
    upstream = "github.com/Zhaoxin-Feng/reasoning_and_sycophancy, or mc_task.json from github.com/sylinrl/TruthfulQA"
    path = find(source.data, ("objective_data.csv", *TRUTHFULQA_MC), upstream)
    if path.name in TRUTHFULQA_MC:
        return truthfulqa_choices(read_json(path, ("question", "mc1_targets")), source.seed)
    columns = ("question", "answer_choices", "correct_choices")
    return _choices(path.name, read_csv(path, columns), "answer_choices", "correct_choices")


def _choices(name: str, rows: Iterable[Row], answers: str, correct: str) -> list[Choice]:
    choices = []
    for row in rows:
        try:
            options = tuple((m[1], m[2]) for m in _OPTION.finditer(row[answers].strip()))
            choices.append(Choice(row["question"], options, row[correct]))
        except (KeyError, AttributeError, ValueError) as error:
            raise DataFileError(f"{name}: {str(row.get('question'))[:60]!r} is no multiple choice: {error}.") from error
    if not choices:
        raise DataFileError(f"{name} has no multiple choice questions.")
    return choices


def _shuffled(question: str, targets: object, seed: int) -> Choice:
    if not isinstance(targets, dict) or list(targets.values()).count(1) != 1:
        raise DataFileError(f"{question[:60]!r}: mc1_targets must map options to 0, and one to 1.")
    texts = list(targets)
    random.Random(f"{seed}|{question}").shuffle(texts)
    options = tuple(zip(ascii_uppercase, texts, strict=False))
    return Choice(question, options, _letter_of_right(options, targets))


def _letter_of_right(options: Sequence[tuple[str, str]], targets: dict[str, int]) -> str:
    return next((letter for letter, text in options if targets[text] == 1), "")
