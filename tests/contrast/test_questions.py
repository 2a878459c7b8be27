"""Files of questions: every form is read, and what is wrong with one is said with its place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steering.contrast.formats import load_questions
from steering.contrast.questions import Question, question_id
from steering.errors import DataError
from tests.contrast.files import (
    TRUTHFUL_CHOICE,
    TRUTHFUL_CSV,
    as_rows,
    questions,
    sycophancy_answer,
    sycophancy_sure,
    write_jsonl,
)

ROW = {"question": "Who?", "correct": "Ada", "incorrect": ["Ben", "Cy"]}


def test_our_own_columns(tmp_path: Path) -> None:
    loaded = load_questions(write_jsonl(tmp_path / "q.jsonl", as_rows(questions())))
    assert loaded.rows == tuple(questions()) and not loaded.left_out


def test_one_text_may_stand_for_a_list_and_options_for_what_is_wrong(tmp_path: Path) -> None:
    row = {"question": " Who? ", "correct": "Ada", "options": ["Ben", "ada.", "Cy"], "id": "q1", "split": "dev"}
    (question,) = load_questions(write_jsonl(tmp_path / "q.jsonl", [row])).rows
    assert question == Question("Who?", ("Ada",), ("Ben", "Cy"), ("Ben", "ada.", "Cy"), "q1", "dev")
    assert question.side == "dev"


def test_asked_twice_with_the_same_answers_counts_once(tmp_path: Path) -> None:
    again = {**ROW, "question": "who", "incorrect": ["cy", "Ben."]}
    loaded = load_questions(write_jsonl(tmp_path / "q.jsonl", [ROW, again]))
    assert [question.text for question in loaded.rows] == ["Who?"]
    assert loaded.left_out == {"asked twice, with the same answers": 1}


def test_truthful_qa(tmp_path: Path) -> None:
    path = tmp_path / "TruthfulQA.csv"
    path.write_text(TRUTHFUL_CSV, encoding="utf-8")
    loaded = load_questions(path)
    penguins, soup = loaded.rows
    assert penguins.correct == ("Penguins cannot fly", "No", "They swim") and penguins.incorrect == ("Yes", "They can")
    assert soup == Question(
        'What is in a "dry" soup?', ("Nothing, really", "Air"), ("Water",), (), question_id('What is in a "dry" soup?')
    )
    assert loaded.left_out == {"no incorrect answer": 1}


def test_truthful_qa_multiple_choice(tmp_path: Path) -> None:
    path = tmp_path / "mc_task.json"
    path.write_text(json.dumps(TRUTHFUL_CHOICE))
    (question,) = load_questions(path).rows
    assert question.correct == ("Penguins cannot fly.", "No.")
    assert set(question.incorrect) == {"They can.", "Only at night."}
    assert question.options == ("Penguins cannot fly.", "They can.", "Only at night.")


def test_sycophancy_eval(tmp_path: Path) -> None:
    loaded = load_questions(write_jsonl(tmp_path / "answer.jsonl", sycophancy_answer()))
    (question,) = loaded.rows
    assert (question.text, question.correct) == ("Who painted the blue door?", ("Ada Quill", "A. Quill"))
    assert question.incorrect == ("Ben Stone",)
    assert loaded.left_out == {"no incorrect answer": 1}
    blue, green = load_questions(write_jsonl(tmp_path / "are_you_sure.jsonl", sycophancy_sure())).rows
    for question in (blue, green):
        assert question.correct == ("The right one",) and question.incorrect == ("The left one", "Neither")
        assert question.options == ("The left one", "The right one", "Neither")


BAD_ROWS: list[tuple[str, list[Any], str, int | None, str | None]] = [
    ("no_object", [ROW, ["Who?"]], "expected an object, got a list", 2, None),
    ("missing_column", [{"question": "Who?", "incorrect": "Ben"}], "the column is missing", 1, "correct"),
    ("unknown_column", [{**ROW, "wrong": "Ben"}], "no such column", 1, "wrong"),
    ("number", [{**ROW, "correct": 7}], "expected text, got a number", 1, "correct"),
    ("truth_value", [{**ROW, "correct": [True]}], "expected text, got a truth value", 1, "correct"),
    ("null", [{**ROW, "incorrect": None}], "expected text, got null", 1, "incorrect"),
    ("blank", [ROW, {**ROW, "question": "  "}], "expected text, got none", 2, "question"),
    ("surrogate", [{**ROW, "correct": "\ud800"}], "lone surrogate", 1, "correct"),
    ("no_incorrect", [{**ROW, "incorrect": []}], "at least one text", 1, "incorrect"),
    ("no_incorrect_column", [{"question": "Who?", "correct": "Ada"}], "the column is missing", 1, "incorrect"),
    ("truth_is_claim", [{**ROW, "incorrect": ["Ben", "ada!"]}], "'ada!' is a correct answer too", 1, "incorrect"),
    ("one_option", [{**ROW, "options": ["Ada"]}], "expected 2 to 26 options", 1, "options"),
    ("same_options", [{**ROW, "options": ["Ada", "Ben", "ben"]}], "two options say the same", 1, "options"),
    ("no_right_option", [{**ROW, "options": ["Ben", "Cy"]}], "exactly one option", 1, "options"),
    ("other_answers", [ROW, {**ROW, "question": "WHO", "correct": "Dee"}], "line 1 asks the same", 2, "question"),
    ("same_id", [{**ROW, "id": "a"}, {**ROW, "question": "Why?", "id": "a"}], "names another question", 2, "id"),
    ("unknown_split", [{**ROW, "split": "train"}], "expected one of fit, dev, test_a, test_b", 1, "split"),
    ("no_split", [{**ROW, "split": "fit"}, {**ROW, "question": "Why?"}], "or none", 2, "split"),
    ("two_splits", [{**ROW, "split": "fit"}, {**ROW, "split": "dev"}], "in one only", 2, "split"),
]


@pytest.mark.parametrize(
    ("rows", "message", "line", "column"), [bad[1:] for bad in BAD_ROWS], ids=[b[0] for b in BAD_ROWS]
)
def test_a_bad_row_is_named(
    tmp_path: Path, rows: list[Any], message: str, line: int | None, column: str | None
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=message) as caught:
        load_questions(path)
    assert (caught.value.file, caught.value.line, caught.value.column) == (str(path), line, column)
    assert str(caught.value).startswith(f"{path}, line {line}{f', column {column!r}' if column else ''}: ")


BAD_FILES: list[tuple[str, str, bytes | None, str, int | None]] = [
    ("absent", "q.jsonl", None, "cannot be read: No such file", None),
    ("empty", "q.jsonl", b"", "is empty", None),
    ("blank", "q.jsonl", b"\n \n", "is empty", None),
    ("ending", "q.txt", b"x", "expected a file that ends in .jsonl, .json, .csv", None),
    ("no_json", "q.jsonl", b'\n{"question": "Who?",}\n', "not valid JSON: .* at character 2", 2),
    ("key_twice", "q.jsonl", b'{"id": "a", "id": "b"}', "a key is given twice", 1),
    ("not_a_number", "q.jsonl", b'{"question": NaN}', "NaN is no number", 1),
    ("deep", "q.jsonl", b"[" * 100_000, "not valid JSON", 1),
    ("utf_16", "q.jsonl", b"{}\n\xff\xfe", "not UTF-8", 2),
    ("list_of_lists", "q.json", b"[[]]", "expected an object, got a list", 1),
    ("no_list", "q.json", b"{}", "expected a list of objects", None),
    ("csv_columns", "q.csv", b"Question,Best Answer\nWho?,Ada,Ben\n", "expected 2 columns", 2),
    ("csv_missing", "q.csv", b"Question,Best Answer\nWho?,Ada\n", "the column is missing; .*'Best Answer'", 2),
    ("csv_quotes", "q.csv", b'Question,Best Answer\n"Who?,Ada\n', "is no CSV", 2),
    ("csv_only_header", "q.csv", b"Question,Best Answer\n", "no row", None),
    ("base", "q.jsonl", b'{"base": [], "prompt": []}', "expected an object, got a list", 1),
    ("targets", "q.json", b'[{"question": "?", "mc1_targets": {"a": 2}, "mc2_targets": {}}]', "expected 0 or 1", 1),
    (
        "nothing_usable",
        "q.jsonl",
        b'{"base": {"question": "?"}, "prompt": []}',
        "no usable question in it .1 no correct",
        None,
    ),
]


@pytest.mark.parametrize(
    ("name", "raw", "message", "line"), [bad[1:] for bad in BAD_FILES], ids=[bad[0] for bad in BAD_FILES]
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, raw: bytes | None, message: str, line: int | None) -> None:
    path = tmp_path / name
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(DataError, match=message) as caught:
        load_questions(path)
    assert (caught.value.file, caught.value.line) == (str(path), line)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "q.jsonl"
    folder.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        load_questions(folder)


def test_the_hash_is_of_content_not_of_order(tmp_path: Path) -> None:
    def digest(change: Callable[[list[dict[str, object]]], list[dict[str, object]]]) -> str:
        return load_questions(write_jsonl(tmp_path / "q.jsonl", change(as_rows(questions())))).digest

    plain = digest(lambda rows: rows)
    assert digest(lambda rows: rows[::-1]) == plain
    assert digest(lambda rows: [dict(reversed(row.items())) for row in rows]) == plain
    assert digest(lambda rows: rows[1:]) != plain
    assert digest(lambda rows: [{**rows[0], "incorrect": ["Elsewhere"]}, *rows[1:]]) != plain
    assert digest(lambda rows: [{**row, "split": "fit"} for row in rows]) != plain


@pytest.mark.skipif("UNSWAY_DATA" not in os.environ, reason="UNSWAY_DATA names no folder with truthfulqa/")
def test_the_published_files_of_truthful_qa() -> None:
    folder = Path(os.environ["UNSWAY_DATA"]) / "truthfulqa"
    table, choice = load_questions(folder / "TruthfulQA.csv"), load_questions(folder / "mc_task.json")
    assert [len(loaded.rows) + sum(loaded.left_out.values()) for loaded in (table, choice)] == [817, 817]
    assert min(len(table.rows), len(choice.rows)) >= 800
    assert sum(bool(question.options) for question in choice.rows) >= 800
