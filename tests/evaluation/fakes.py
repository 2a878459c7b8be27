"""Backends without a model, and small files of our own in the shapes of the benchmarks'."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from steering.evaluation.backend import Ask, Chat
from steering.evaluation.core import Reply
from steering.evaluation.protocol import Question, Replies, Steps, converse

T = TypeVar("T")


@dataclass
class Fake:
    """Answers by a function, and remembers what it was asked."""

    answers: Callable[[Ask], Reply]
    asked: list[Ask] = field(default_factory=list)
    identity: Mapping[str, str] = field(default_factory=lambda: {"model": "fake"})

    def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        for i, ask in reversed(list(enumerate(asks))):  # any order will do
            self.asked.append(ask)
            yield i, self.answers(ask)


def saying(*texts: str) -> Fake:
    """Says these one after the other; every question has one ask at a time."""
    left = iter(texts)
    return Fake(lambda ask: Reply(next(left)))


def asked_of(question: Question, backend: Fake) -> Replies:
    """The question put to the backend to its end."""
    [(replies, _, error)] = converse([question.ask()], backend)
    assert error is None
    return replies


def judged(steps: Steps[T] | None, *verdicts: str) -> tuple[T | None, list[Chat]]:
    """What a judge who says these comes to, and what the judge was asked."""
    assert steps is not None
    judge = saying(*verdicts)
    [(_, found, error)] = converse([steps], judge)
    assert error is None
    return found, [ask for ask in judge.asked if isinstance(ask, Chat)]


def last_user(ask: Ask) -> str:
    assert isinstance(ask, Chat)
    return [message["content"] for message in ask.messages if message["role"] == "user"][-1]


def write_csv(path: Path, rows: Sequence[Mapping[str, str]], *, mark: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig" if mark else "utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def biography(name: str, bio: str, question: str, options: tuple[str, str], side: str) -> dict[str, str]:
    """A row of Perez et al.; name: of a family, since their texts differ a little."""
    head = "\n\nChoices:" if name == "nlp" else ""
    listed = f"\n (A) {options[0]}\n (B) {options[1]}\n\nAnswer:"
    other = {" (A)": " (B)", " (B)": " (A)"}[side]
    return {
        "question": f"{bio} {question}{head}{listed}",
        "answer_matching_behavior": side,
        "answer_not_matching_behavior": other,
    }


def write_data(folder: Path) -> Path:
    """Two or three rows for every suite, as the benchmarks lay them out."""
    targets = {"Paris is.": 1, "Lyon is.": 0, "Nice is.": 0}
    questions = [{"question": q, "mc1_targets": targets} for q in ("What is the capital?", "Which town is biggest?")]
    (folder / "truthfulqa").mkdir(parents=True)
    (folder / "truthfulqa" / "mc_task.json").write_text(json.dumps(questions))
    columns = ("Type", "Question", "Best Answer", "Correct Answers", "Incorrect Answers")
    rows = [("x", f"What is {i}?", "Paris", "Paris; The town of Paris", "Lyon; Nice") for i in range(2)]
    write_csv(folder / "truthfulqa" / "TruthfulQA.csv", [dict(zip(columns, r, strict=True)) for r in rows], mark=True)
    for name, file in (
        ("nlp", "sycophancy_on_nlp_survey"),
        ("phil", "sycophancy_on_philpapers2020"),
        ("poli", "sycophancy_on_political_typology_quiz"),
    ):
        bios = ("Hello, I am Sue. I like facts.", "Hello, I am Bob. I am from Texas.")
        asked = f"What is your view on {name}?"
        lines = [biography(name, bio, asked, ("yes", "no"), s) for bio, s in zip(bios, (" (A)", " (B)"), strict=True)]
        write_jsonl(folder / "perez" / f"{file}.jsonl", lines)
    _write_judged(folder)
    _write_capability(folder)
    return folder


def _write_judged(folder: Path) -> None:
    bench, sycon = folder / "syco_bench", folder / "sycon_bench"
    write_csv(bench / "questions_pickside.csv", [{"statement1": "tea is best", "statement2": "milk is best"}] * 2)
    stances = {"stance1": "go", "stance2": "stay", "userstance1": "I would go.", "userstance2": "I would stay."}
    write_csv(bench / "questions_mirror.csv", [{"topic": "going", **stances}] * 2)
    write_csv(bench / "questions_whosaid.csv", [{"statement": "It is late,\nI said."}] * 2, mark=True)
    write_csv(bench / "questions_delusion.csv", [{"statement": "I am a ghost."}] * 2, mark=True)
    sycon.mkdir()
    (sycon / "debate_questions.txt").write_text("Is it so?\nIs it thus?\n")
    (sycon / "debate_arguments.txt").write_text("It is so.\nIt is thus.\n")
    turns = {"question": "Are they so?", **{f"question{i}": f"But {i}?" for i in range(2, 6)}}
    write_csv(sycon / "ethical_queries.csv", [{"stereotype": "They are so.", **turns}] * 2)
    pushes = {f"Pushback_{i}": f"But really {i}?" for i in range(1, 5)}
    write_csv(sycon / "falsepre_push_back.csv", [{"Question": "Why is ice hot?", **pushes}] * 2)
    (sycon / "falsepre_presuppositions.txt").write_text("Ice is hot.\nIce is hot.\n")
    (sycon / "falsepre_corrections.txt").write_text("Ice is cold.\nIce is cold.\n")


def _write_capability(folder: Path) -> None:
    solved = [{"question": f"What is 2 and {i}?", "answer": f"2 + {i}\n#### {2 + i:,}"} for i in range(3)]
    write_jsonl(folder / "gsm8k" / "test.jsonl", solved)
    (folder / "strategyqa").mkdir()
    yes_no = [{"qid": f"q{i}", "question": f"Is {i} even?", "answer": i % 2 == 0} for i in range(2)]
    (folder / "strategyqa" / "dev.json").write_text(json.dumps(yes_no))
    prompt = 'from typing import List\n\n\ndef add(a: int, b: int) -> int:\n    """ Adds. """\n'
    test = "def check(candidate):\n    assert candidate(2, 3) == 5\n"
    task = {"task_id": "T/0", "prompt": prompt, "entry_point": "add", "canonical_solution": "    return a + b\n"}
    write_jsonl(folder / "humaneval" / "HumanEval.jsonl", [{**task, "test": test}])
