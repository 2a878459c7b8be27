"""HumanEval (Chen et al. 2021, arXiv 2107.03374): pass@1 of greedy answers, run in a sandbox."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from steering.data_file import Row, read_rows
from steering.errors import EvaluationError
from steering.evaluation.backend import Chat
from steering.evaluation.data_files import find
from steering.evaluation.protocol import Measure, Measures, Question, Replies, Source, Steps, Suite
from steering.evaluation.sandbox import Sandbox, find_sandbox

ASKED = "Complete this Python function. Reply with the whole function in one code block.\n\n```python\n{prompt}```"
MAX_TOKENS = 1024

_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Function:
    id: str
    prompt: str
    entry_point: str
    test: str
    sandbox: Sandbox

    @property
    def cluster(self) -> str:
        return self.id

    def ask(self) -> Steps[None]:
        yield (Chat(({"role": "user", "content": ASKED.format(prompt=self.prompt)},), MAX_TOKENS),)

    def grade(self, replies: Replies) -> Mapping[str, Measures]:
        program = f"{self.code(replies[0].text)}\n\n{self.test}\n\ncheck({self.entry_point})\n"
        return {"executed": {"pass_at_1": float(self.sandbox.passes(program))}}

    def code(self, reply: str) -> str:
        """The last block that defines the function, under the prompt's imports and helpers; where a reply has no such
        block it continues the prompt."""
        head = f"def {self.entry_point}("
        blocks: list[str] = _FENCED.findall(reply) or [reply]
        whole = [block for block in blocks if head in block]
        if whole:
            return self.prompt[: self.prompt.index(head)] + whole[-1]
        return self.prompt + blocks[-1]

    def judge(self, replies: Replies) -> None:
        return None


def suites() -> tuple[Suite, ...]:
    measures = (Measure("pass_at_1", "functions that pass their tests"),)
    return (Suite("humaneval", "HumanEval", _load, measures, num_asks=1, capability=True),)


def _load(source: Source) -> list[Question]:
    if not source.runs_code:
        raise EvaluationError("humaneval executes code that the model wrote, in a sandbox: allow it with --run-code.")
    path = find(source.data, ("HumanEval.jsonl.gz", "HumanEval.jsonl"), "github.com/openai/human-eval (MIT)")
    tasks = [_task(row) for row in read_rows(path)]
    sandbox = find_sandbox()
    return [Function(*task, sandbox) for task in tasks]


def _task(row: Row) -> tuple[str, str, str, str]:
    name, prompt, entry_point, test = map(row.exact, ("task_id", "prompt", "entry_point", "test"))
    if f"def {entry_point}(" not in prompt:
        raise row.fault(f"the prompt of {name} does not begin {entry_point}.", "prompt")
    return name, prompt, entry_point, test
