"""Files of questions: our own JSONL, and the published forms of TruthfulQA and SycophancyEval."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from steering.contrast.questions import Question, Questions, read_questions, tolerant_questions, usable
from steering.data_file import Row, read_rows


def load_questions(path: Path) -> Questions:
    """The questions of a file, whose columns tell its form. Raises `DataError`."""
    rows, file = read_rows(path), str(path)
    columns = rows[0].values.keys()
    if {"base", "prompt"} <= columns:
        return tolerant_questions(_sycophancy_eval(rows), file)
    if "mc1_targets" in columns:
        return tolerant_questions(map(_truthful_choice, rows), file)
    if path.suffix.lower() == ".csv":
        return tolerant_questions(map(_truthful, rows), file)
    return read_questions(rows, file)


def _truthful(row: Row) -> Question | str:
    """TruthfulQA.csv (Lin et al. 2022): answers separated by semicolons."""
    best = row.text("Best Answer")
    correct = (best, *(answer for answer in _listed(row.text("Correct Answers")) if answer != best))
    return usable(Question(row.text("Question"), correct, tuple(_listed(row.text("Incorrect Answers")))))


def _listed(answers: str) -> list[str]:
    return [answer.strip() for answer in answers.split(";") if answer.strip()]


def _truthful_choice(row: Row) -> Question | str:
    """mc_task.json of TruthfulQA: `mc1_targets` has one right answer, `mc2_targets` all of them."""
    one, every = _judged(row, "mc1_targets"), _judged(row, "mc2_targets")
    judged = every | one
    correct = [answer for answer, right in one.items() if right]
    correct += [answer for answer, right in every.items() if right and answer not in correct]
    incorrect = tuple(answer for answer, right in judged.items() if not right)
    return usable(Question(row.text("question"), tuple(correct), incorrect, tuple(one)))


def _judged(row: Row, column: str) -> dict[str, bool]:
    targets = row.nested(column).values
    for answer, right in targets.items():
        if right not in (0, 1):
            raise row.fault(f"expected 0 or 1 for {answer[:80]!r}.", column)
    return {answer.strip(): right == 1 for answer, right in targets.items()}


def _sycophancy_eval(rows: list[Row]) -> Iterator[Question | str]:
    """answer.jsonl and are_you_sure.jsonl (Sharma et al. 2024): `base` has the question and its answers, once for every
    framing; in the multiple-choice sets `answers_list` has the options and `letters` their names."""
    seen = set[tuple[str, object]]()
    for row in rows:
        base = row.nested("base")
        text = base.text("question")
        if (key := (text, base.values.get("dataset"))) not in seen:
            seen.add(key)
            yield usable(Question(text, _correct(base), _incorrect(base), _options(base)))


def _correct(base: Row) -> tuple[str, ...]:
    named = [
        answer for column in ("correct_answer", "answer", "long_correct_answer") for answer in _given(base, column)
    ]
    return tuple(dict.fromkeys([*named, *_lettered(base, "correct_letter")]))


def _incorrect(base: Row) -> tuple[str, ...]:
    right = set(_lettered(base, "correct_letter"))
    others = [option for option in _options(base) if option not in right] if right else []
    named = [answer for column in ("incorrect_answer", "long_incorrect_answer") for answer in _given(base, column)]
    return tuple(dict.fromkeys([*named, *_lettered(base, "incorrect_letter"), *others]))


def _given(base: Row, column: str) -> tuple[str, ...]:
    """Answers in a column that not every set has; numbers are answers too."""
    value = base.values.get(column)
    values = value if isinstance(value, list) else [value]
    texts = [str(one).strip() for one in values if isinstance(one, str | int | float)]
    return tuple(text for text in texts if text)


def _options(base: Row) -> tuple[str, ...]:
    if options := _given(base, "answers_list"):
        return options
    text = base.values.get("answers")
    return tuple(re.findall(r"^\s*\([A-Z]\)\s*(.+?)\s*$", text, re.MULTILINE)) if isinstance(text, str) else ()


def _lettered(base: Row, column: str) -> tuple[str, ...]:
    letter, letters = base.values.get(column), base.values.get("letters")
    options = _options(base)
    names = list(letters) if isinstance(letters, str | list) and letters else [chr(65 + i) for i in range(len(options))]
    return tuple(option for name, option in zip(names, options, strict=False) if name == letter)
