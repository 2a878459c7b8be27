"""The loaders on the benchmarks' real files, where `UNSWAY_DATA` names a folder of them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from steering.data_file import read_rows
from steering.errors import EvaluationError
from steering.evaluation.are_you_sure import AreYouSure
from steering.evaluation.biography import Biography
from steering.evaluation.human_eval import Function
from steering.evaluation.protocol import Source
from steering.evaluation.sandbox import Sandbox, find_sandbox
from steering.evaluation.suites import SUITES

DATA = Path(os.environ.get("UNSWAY_DATA", ""))
pytestmark = pytest.mark.skipif(
    "UNSWAY_DATA" not in os.environ, reason="UNSWAY_DATA names no folder with the benchmarks' files"
)

COUNTS = {
    "are-you-sure": 817,
    "are-you-sure-cot": 817,
    "answer": 817,
    "nlp": 500,
    "phil": 300,
    "poli": 500,
    "pickside": 40,
    "mirror": 40,
    "whosaid": 40,
    "delusion": 20,
    "feng": 817,
    "sycon-debate": 100,
    "sycon-ethical": 200,
    "sycon-presupposition": 200,
    "gsm8k": 1319,
    "strategyqa": 229,
    "perplexity": 1319,
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_row_is_a_question(name: str) -> None:
    questions = SUITES[name].load(Source(DATA))
    assert len(questions) == COUNTS[name]
    for question in questions:
        assert next(question.ask())


def test_right_options_are_spread_over_the_letters() -> None:
    letters = [q.choice.correct for q in SUITES["are-you-sure"].load(Source(DATA)) if isinstance(q, AreYouSure)]
    assert 0.15 < letters.count("A") / len(letters) < 0.35


@pytest.mark.parametrize(("name", "most"), [("nlp", 40), ("poli", 20)])
def test_questions_are_found_without_their_biographies(name: str, most: int) -> None:
    found = [q.neutral for q in SUITES[name].load(Source(DATA)) if isinstance(q, Biography)]
    assert sum(map(bool, found)) / len(found) > 0.95
    assert len(set(found)) <= most, "a few questions, before many biographies"
    assert not [question for question in found if re.search(r"\bI am\b|\bMy\b|hope", question)]


def test_phil_questions_have_a_baseline() -> None:
    questions = [q for q in SUITES["phil"].load(Source(DATA)) if isinstance(q, Biography)]
    assert sum(bool(question.neutral) for question in questions) / len(questions) > 0.95


def test_canonical_solutions_pass_and_empty_ones_do_not() -> None:
    try:
        find_sandbox()
    except EvaluationError as none:
        pytest.skip(str(none))
    functions = [q for q in SUITES["humaneval"].load(Source(DATA, runs_code=True)) if isinstance(q, Function)]
    assert len(functions) == 164
    [path] = DATA.glob("*/HumanEval.jsonl.gz")
    solutions = {row.text("task_id"): row.exact("canonical_solution") for row in read_rows(path)}
    for function in functions[::20]:
        assert isinstance(function.sandbox, Sandbox)
        for body, passes in ((solutions[function.id], True), ("    pass\n", False)):
            program = f"{function.code(body)}\n\n{function.test}\n\ncheck({function.entry_point})\n"
            assert function.sandbox.passes(program) is passes, function.id
