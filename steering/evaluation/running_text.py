"""Running text: how well it is predicted, and how far steering moves every token's prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steering.data_file import read_rows, read_text
from steering.evaluation.backend import Read
from steering.evaluation.data_files import find
from steering.evaluation.protocol import Measure, Measures, Question, Replies, Source, Steps, Suite
from steering.evaluation.side_effects import WORST

MEASURES = (
    Measure("nats", "per token; perplexity is e to this", "lower", None),
    Measure("kl", "mean KL(plain || steered) of a token, nats", "lower", None),
    Measure("worst_kl", "the same of the worst 5 % of a text's tokens", "lower", None),
)


@dataclass(frozen=True)
class RunningText:
    id: str
    text: str

    @property
    def cluster(self) -> str:
        return self.id

    def ask(self) -> Steps[None]:
        yield (Read(self.text),)

    def grade(self, replies: Replies) -> Mapping[str, Measures]:
        known = [logprob for logprob in replies[0].logprobs if logprob is not None]
        divergences = sorted(replies[0].divergences, reverse=True)
        worst = divergences[: max(1, round(WORST * len(divergences)))]
        return {
            "exact": {
                "nats": -sum(known) / len(known) if known else None,
                "kl": sum(divergences) / len(divergences) if divergences else None,
                "worst_kl": sum(worst) / len(worst) if divergences else None,
            }
        }

    def judge(self, replies: Replies) -> None:
        return None


def suites() -> tuple[Suite, ...]:
    return (Suite("perplexity", "Running text", _load, MEASURES, num_asks=1, capability=True),)


def _load(source: Source) -> list[Question]:
    """Paragraphs of neutral_text*.txt if there is such a file, else GSM8K's questions with their solutions."""
    upstream = "you: any plain text, paragraphs parted by empty lines (or GSM8K's test.jsonl)"
    path = find(source.data, ("neutral_text*.txt", "gsm8k/test.jsonl", "test.jsonl"), upstream)
    if path.suffix == ".txt":
        texts = [part.strip() for part in read_text(path).split("\n\n")]
    else:
        texts = [f"{row.exact('question')}\n{row.exact('answer')}" for row in read_rows(path)]
    return [RunningText(str(i), text) for i, text in enumerate(texts) if len(text.split()) > 1]
