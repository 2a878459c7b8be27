"""Run: suites under conditions, each answer once, each suite's result as soon as it is there."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from steering.errors import EvaluationError
from steering.evaluation.backend import Backend
from steering.evaluation.protocol import Measures, Outcome, Question, Replies, Source, Steps, Suite, converse
from steering.evaluation.results import JUDGE, SuiteResult, tabulate

OFF = "off"


class Progress(Protocol):
    def start(self, what: str, total: int) -> None:
        """Something of about so many answers begins."""
        ...

    def advance(self) -> None:
        """One answer is there."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What is to be run."""

    suites: Sequence[Suite]
    source: Source
    conditions: Mapping[str, Backend]
    """By name; differences are to the first."""
    judge: Backend | None
    limit: int | None
    """Questions of a suite, drawn with the source's seed; None: all."""

    def load(self) -> dict[str, list[Question]]:
        """Suite -> its questions. Whatever can be wrong with files or options shows here, before anything is asked."""
        if self.judge is None and (blind := [suite.name for suite in self.suites if suite.needs_judge]):
            raise EvaluationError(f"{blind[0]} is graded by a judge: name one with --judge-url.")
        return {suite.name: self._drawn(suite.load(self.source)) for suite in self.suites}

    def _drawn(self, questions: Sequence[Question]) -> list[Question]:
        """In the file's order."""
        if self.limit is None or self.limit >= len(questions):
            return list(questions)
        chosen = random.Random(self.source.seed).sample(range(len(questions)), self.limit)
        return [questions[i] for i in sorted(chosen)]


def run(evaluation: Evaluation, progress: Progress) -> Iterator[SuiteResult]:
    """Raises `EvaluationError`; what was answered till then is with the backends' logs."""
    loaded = evaluation.load()
    for suite in evaluation.suites:
        outcomes = {
            name: _outcomes(suite, name, loaded[suite.name], evaluation, progress) for name in evaluation.conditions
        }
        yield tabulate(suite, outcomes)


def _outcomes(
    suite: Suite, condition: str, questions: Sequence[Question], evaluation: Evaluation, progress: Progress
) -> list[Outcome]:
    backend = evaluation.conditions[condition]
    progress.start(f"{suite.name}, {condition}", len(questions) * suite.num_asks)
    talks = converse([question.ask() for question in questions], backend, progress.advance)
    if talks and all(error for _, _, error in talks):
        raise EvaluationError(f"{suite.name}, {condition}: no question could be asked: {talks[0][2]}")
    judged = _judged(questions, [None if error else replies for replies, _, error in talks], evaluation, progress)
    return [
        Outcome(question, replies, {} if error else {**question.grade(replies), **verdict}, error)
        for question, (replies, _, error), verdict in zip(questions, talks, judged, strict=True)
    ]


def _judged(
    questions: Sequence[Question],
    transcripts: Sequence[Replies | None],
    evaluation: Evaluation,
    progress: Progress,
) -> list[dict[str, Measures]]:
    """For each question what the judge finds; empty without a judge, or where there is nothing to ask one."""
    found: list[dict[str, Measures]] = [{} for _ in questions]
    if evaluation.judge is None:
        return found
    places: list[int] = []
    steps: list[Steps[Measures]] = []
    for i, (question, replies) in enumerate(zip(questions, transcripts, strict=True)):
        asked = None if replies is None else question.judge(replies)
        if asked is not None:
            places.append(i)
            steps.append(asked)
    if steps:
        progress.start("judging", len(steps))
    for i, (_, verdict, error) in zip(places, converse(steps, evaluation.judge, progress.advance), strict=True):
        if error:
            raise EvaluationError(f"the judge refuses: {error}")
        found[i] = {JUDGE: verdict or {}}
    return found
