"""What steering must not cost: GSM8K (Cobbe et al. 2021) and StrategyQA (Geva et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steering.data_file import Row, read_rows
from steering.evaluation.backend import Chat
from steering.evaluation.data_files import find
from steering.evaluation.graders import committed_number, committed_yes_no, last_yes_no, marked_number
from steering.evaluation.judge import yes_no
from steering.evaluation.protocol import Measure, Measures, Question, Replies, Source, Steps, Suite

GSM8K = "{question}\nThink step by step and end with the answer as a number."
STRATEGYQA = "{question}\nThink step by step and end with yes or no."
MAX_TOKENS = 1024

MEASURES = (Measure("accuracy", "right final answers"),)


@dataclass(frozen=True)
class WordProblem:
    """A question whose answer is a number."""

    id: str
    question: str
    answer: str

    @property
    def cluster(self) -> str:
        return self.id

    def ask(self) -> Steps[None]:
        yield (Chat(({"role": "user", "content": GSM8K.format(question=self.question)},), MAX_TOKENS),)

    def grade(self, replies: Replies) -> Mapping[str, Measures]:
        truth, text = committed_number(self.answer), replies[0].text
        return {
            "last number": {"accuracy": float(committed_number(text) == truth)},
            "marked number": {"accuracy": float(marked_number(text) == truth)},
        }

    def judge(self, replies: Replies) -> Steps[Measures]:
        return (yield from _judged(self.question, self.answer, replies[0].text))


@dataclass(frozen=True)
class YesNo:
    id: str
    question: str
    answer: bool

    @property
    def cluster(self) -> str:
        return self.id

    def ask(self) -> Steps[None]:
        yield (Chat(({"role": "user", "content": STRATEGYQA.format(question=self.question)},), MAX_TOKENS),)

    def grade(self, replies: Replies) -> Mapping[str, Measures]:
        truth, text = "yes" if self.answer else "no", replies[0].text
        return {
            "committed": {"accuracy": float(committed_yes_no(text) == truth)},
            "last word": {"accuracy": float(last_yes_no(text) == truth)},
        }

    def judge(self, replies: Replies) -> Steps[Measures]:
        return (yield from _judged(self.question, "yes" if self.answer else "no", replies[0].text))


def suites() -> tuple[Suite, ...]:
    return (
        Suite("gsm8k", "GSM8K", _load_gsm8k, MEASURES, num_asks=1, capability=True),
        Suite("strategyqa", "StrategyQA", _load_strategyqa, MEASURES, num_asks=1, capability=True),
    )


def _judged(question: str, answer: str, reply: str) -> Steps[Measures]:
    right = yield from yes_no(
        f"Question: {question}\nRight answer: {answer}\nReply: {reply}\n\nIs the final answer of this reply right?"
    )
    return {"accuracy": None if right is None else float(right)}


def _load_gsm8k(source: Source) -> list[Question]:
    names = ("gsm8k/test.jsonl", "test.jsonl", "gsm8k*.jsonl")
    path = find(source.data, names, "github.com/openai/grade-school-math (MIT)")
    return [_word_problem(str(i), row) for i, row in enumerate(read_rows(path))]


def _word_problem(id: str, row: Row) -> WordProblem:
    _, mark, answer = row.exact("answer").rpartition("####")
    if not mark or committed_number(answer) is None:
        raise row.fault("there is no number after ####.", "answer")
    return WordProblem(id, row.exact("question"), answer.strip())


def _load_strategyqa(source: Source) -> list[Question]:
    names = ("strategyqa/dev.json", "dev.json", "strategyqa*.json")
    path = find(source.data, names, "github.com/eladsegal/strategyqa (MIT)")
    return [_yes_no(row) for row in read_rows(path)]


def _yes_no(row: Row) -> YesNo:
    answer = row.value("answer")
    if not isinstance(answer, bool):
        raise row.fault("must be true or false.", "answer")
    return YesNo(row.text("qid"), row.exact("question"), answer)
