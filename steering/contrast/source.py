"""A source of questions, as calibration sees it: the bundled organism is one, a file of questions another."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from steering.contrast import invented
from steering.contrast.build import Askable, askable, build
from steering.contrast.item import OPENING, Item, PhrasingSet, QuestionKind
from steering.contrast.questions import Questions, told
from steering.contrast.splits import SPLITS, Split
from steering.errors import DataError, TemplateError
from steering.model.loading import LanguageModel

Text = str | tuple[dict[str, str], ...]
"""Running text, or chat messages of which the last is the assistant's."""


class Source(Protocol):
    """Everything is deterministic under its seed. How answers are opened and read, the items say themselves."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str:
        """Of the content of the questions, for cards."""

    @property
    def fitted(self) -> tuple[Split, ...]:
        """Splits that lenses and means may be fitted on."""

    @property
    def phrasings(self) -> PhrasingSet:
        """Those to calibrate on."""

    @property
    def honest_prompts(self) -> tuple[str, ...]:
        """System prompts that ask for honesty in words a model of this source was trained on."""

    @property
    def limits(self) -> str:
        """One sentence for the card: what figures on these questions do not say."""

    def items(
        self, kind: QuestionKind, split: Split, *, seed: int, per_question: int = 1, phrasings: PhrasingSet = "all"
    ) -> list[Item]:
        """Every question of the split, `per_question` times; twice as many of the kinds that come in pairs."""

    def in_context_items(self, count: int, split: Split, seed: int) -> list[Item]:
        """Tasks whose answer is in the user's text."""

    def uptake_items(self, count: int, split: Split, seed: int) -> list[Item]:
        """Questions whose answer only the user knows, and tells."""

    def neutral_texts(self, count: int, seed: int) -> list[Text]:
        """Without pressure, about no question but those of `fitted`."""

    def stories(self, count: int, seed: int) -> list[str]:
        """Running text that asks for nothing."""

    def reply(self, item: Item) -> str:
        """A good one, to learn from."""


@dataclass(frozen=True)
class QuestionSource:
    """Questions of a file, as far as a model's first tokens tell their answers apart."""

    name: str
    digest: str
    asked: Mapping[Split, Sequence[Askable]]
    left_out: Mapping[str, int]
    """Reason -> how many questions of the file are never asked."""

    fitted: tuple[Split, ...] = ("fit",)
    phrasings: PhrasingSet = "train"
    honest_prompts: tuple[str, ...] = ()
    limits: str = "The figures hold for questions like these, asked like this, in English, with short answers."

    def __str__(self) -> str:
        sizes = ", ".join(f"{split} {len(some)}" for split, some in self.asked.items())
        return f"{self.name} ({self.digest[:12]}): {sizes}; left out: {told(self.left_out)}"

    def items(
        self, kind: QuestionKind, split: Split, *, seed: int, per_question: int = 1, phrasings: PhrasingSet = "all"
    ) -> list[Item]:
        return [
            item
            for about in self.asked.get(split, ())
            for repeat in range(per_question)
            for item in build(kind, about, seed=seed, repeat=repeat, phrasings=phrasings)
        ]

    def in_context_items(self, count: int, split: Split, seed: int) -> list[Item]:
        return invented.in_context_items(count, split, seed)

    def uptake_items(self, count: int, split: Split, seed: int) -> list[Item]:
        return invented.uptake_items(count, split, seed)

    def stories(self, count: int, seed: int) -> list[str]:
        return invented.stories(count, seed)

    def reply(self, item: Item) -> str:
        return f"{item.form.opening}{item.form.joint}{item.truth.removesuffix('.')}."

    def neutral_texts(self, count: int, seed: int) -> list[Text]:
        """Half of them questions of the file with their answers, the rest tasks, things told, and stories."""
        rng = random.Random(f"{seed}|neutral texts")
        asked = self.items("neutral", "fit", seed=seed)
        others = [*self.in_context_items(count, "fit", seed), *self.uptake_items(count, "fit", seed)]
        told = self.stories(count, seed)
        return [_neutral(rng, asked, others, told) for _ in range(count)]


def question_source(questions: Questions, model: LanguageModel) -> QuestionSource:
    """Questions for one model. Raises `TemplateError` if it has no chat template, `DataError` if a split is empty."""
    if not model.tokenizer.chat_template:
        raise TemplateError(
            f"model {model.name} has no chat template, so nobody can put pressure on it in a chat; take its instruct "
            "version, or put a chat_template.jinja beside its tokenizer."
        )
    return source_of(questions, model.tokenizer)


def source_of(questions: Questions, tokenizer: Any) -> QuestionSource:
    """Raises `DataError` if some split has no question."""
    asked: dict[Split, list[Askable]] = {split: [] for split in SPLITS}
    left_out = Counter(questions.left_out)
    for question in questions.rows:
        if about := askable(question, tokenizer):
            asked[question.side].append(about)
        else:
            left_out["whose answers all begin with the same token"] += 1
    for split, some in asked.items():
        if not some:
            total = sum(map(len, asked.values()))
            reason = (
                f"no question falls in split {split!r} ({total} usable in all; left out: {told(left_out)}); add some."
            )
            raise DataError(reason, file=questions.file)
    return QuestionSource(Path(questions.file).name, questions.digest, asked, dict(left_out))


def _neutral(rng: random.Random, asked: Sequence[Item], others: Sequence[Item], stories: Sequence[str]) -> Text:
    draw = rng.random()
    if draw < 0.1:
        return rng.choice(stories)
    if draw < 0.5:
        return _answered(rng.choice(others))
    turns = [_answered(item) for item in rng.choices(asked, k=rng.randint(1, 3))]
    return tuple(message for turn in turns for message in turn)


def _answered(item: Item) -> tuple[dict[str, str], ...]:
    return (*item.messages, {"role": "assistant", "content": f"{OPENING} {item.truth.removesuffix('.')}."})
