"""Questions with right and wrong answers, and files of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from steering.contrast.committed import LETTERS
from steering.contrast.item import content_hash
from steering.contrast.splits import SPLITS, Split, normalised, split_of
from steering.data_file import Row
from steering.errors import DataError

COLUMNS = ("question", "correct", "incorrect", "options", "id", "split")


@dataclass(frozen=True)
class Question:
    text: str
    correct: tuple[str, ...]
    """The preferred wording first."""
    incorrect: tuple[str, ...]
    options: tuple[str, ...] = ()
    """Of a multiple-choice question: one of `correct`, the rest of `incorrect`."""
    question_id: str = ""
    """Of the file, else made of the text."""
    split: Split | None = None
    """Where the file says so; else the text decides."""

    @property
    def side(self) -> Split:
        return self.split or split_of(self.text)

    @property
    def content(self) -> dict[str, object]:
        """All that matters for results, as JSON."""
        return {
            "question": self.text,
            "correct": self.correct,
            "incorrect": self.incorrect,
            "options": self.options,
            "id": self.question_id,
            "split": self.side,
        }


@dataclass(frozen=True)
class Questions:
    """What a file holds."""

    file: str
    rows: tuple[Question, ...]
    left_out: Mapping[str, int]
    """Reason -> how many questions of the file are not here."""

    @property
    def digest(self) -> str:
        return content_hash(question.content for question in self.rows)


def question_id(text: str) -> str:
    return hashlib.sha256(normalised(text).encode()).hexdigest()[:12]


def read_questions(rows: Iterable[Row], file: str) -> Questions:
    """Rows in our own columns: `question`, `correct` and `incorrect` (a text or a list of them); `options`, `id`
    and `split` if wanted. Anything doubtful is an error; a question that is there twice, word for word, counts once."""
    read = [(row, _question(row)) for row in rows]
    _check_ids(read)
    _check_splits(read)
    unique: dict[str, tuple[Row, Question]] = {}
    repeated = 0
    for row, question in read:
        first_row, first = unique.setdefault(normalised(question.text), (row, question))
        if _answers(question) != _answers(first):
            raise row.fault(f"line {first_row.line} asks the same and has other answers; keep one of them.", "question")
        repeated += first_row is not row
    reasons = {"asked twice, with the same answers": repeated} if repeated else {}
    return Questions(file, tuple(question for _, question in unique.values()), reasons)


def tolerant_questions(found: Iterable[Question | str], file: str) -> Questions:
    """Of a published file, which nobody will edit: questions, and the reasons why rows of it are none."""
    unique: dict[str, Question] = {}
    reasons = Counter[str]()
    for question in found:
        if isinstance(question, str):
            reasons[question] += 1
        elif _answers(unique.setdefault(normalised(question.text), question)) != _answers(question):
            reasons["asked before, with other answers"] += 1
    if not unique:
        raise DataError(f"there is no usable question in it ({told(reasons)}).", file=file)
    return Questions(file, tuple(unique.values()), dict(reasons))


def usable(question: Question) -> Question | str:
    """The question without what is right and wrong at once, or why nothing is left of it."""
    right = {normalised(answer) for answer in question.correct}
    incorrect = tuple(answer for answer in question.incorrect if normalised(answer) not in right)
    if not right:
        return "no correct answer"
    if not incorrect:
        return "no incorrect answer"
    listed = [normalised(option) for option in question.options]
    options = question.options if len(set(listed)) == len(listed) and len(right & set(listed)) == 1 else ()
    name = question.question_id or question_id(question.text)
    return Question(question.text, question.correct, incorrect, options, name, question.split)


def told(reasons: Mapping[str, int]) -> str:
    """ "3 no incorrect answer, 2 asked twice"."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "none"


def _question(row: Row) -> Question:
    for column in row.values.keys() - set(COLUMNS):
        raise row.fault(f"no such column; there are {', '.join(COLUMNS)}.", column)
    text, correct = row.text("question"), row.texts("correct")
    options = row.texts("options") if "options" in row.values else ()
    right = {normalised(answer) for answer in correct}
    if "incorrect" in row.values or not options:
        incorrect = row.texts("incorrect")
    else:
        incorrect = tuple(option for option in options if normalised(option) not in right)
    for answer in incorrect:
        if normalised(answer) in right:
            raise row.fault(f"{answer[:80]!r} is a correct answer too.", "incorrect")
    if options:
        _check_options(row, options, right)
    name = row.text("id") if "id" in row.values else question_id(text)
    return Question(text, correct, incorrect, options, name, _split(row))


def _split(row: Row) -> Split | None:
    if "split" not in row.values:
        return None
    for split in SPLITS:
        if row.values["split"] == split:
            return split
    raise row.fault(f"expected one of {', '.join(SPLITS)}.", "split")


def _check_options(row: Row, options: tuple[str, ...], right: set[str]) -> None:
    listed = [normalised(option) for option in options]
    if not 2 <= len(options) <= len(LETTERS):
        raise row.fault(f"expected 2 to {len(LETTERS)} options, got {len(options)}.", "options")
    if len(set(listed)) < len(listed):
        raise row.fault("two options say the same.", "options")
    if (number := len(right & set(listed))) != 1:
        raise row.fault(f"exactly one option must be a correct answer, {number} are.", "options")


def _check_ids(read: list[tuple[Row, Question]]) -> None:
    seen: dict[str, str] = {}
    for row, question in read:
        if seen.setdefault(question.question_id, normalised(question.text)) != normalised(question.text):
            raise row.fault(f"{question.question_id[:80]!r} names another question already.", "id")


def _check_splits(read: list[tuple[Row, Question]]) -> None:
    if not any(question.split for _, question in read):
        return
    sides: dict[str, tuple[Row, Split]] = {}
    for row, question in read:
        if question.split is None:
            raise row.fault("the column is missing; give every question a split, or none.", "split")
        first, side = sides.setdefault(normalised(question.text), (row, question.split))
        if side != question.split:
            raise row.fault(f"line {first.line} has the same question in {side!r}; it can be in one only.", "split")


def _answers(question: Question) -> tuple[frozenset[str], ...]:
    sides = (question.correct, question.incorrect, question.options)
    return tuple(frozenset(map(normalised, answers)) for answers in sides)
