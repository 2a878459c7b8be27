"""One question as it is put to a model, and how the answer is opened and read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from steering.contrast.committed import LETTERS, committed, committed_letter, committed_verdict
from steering.contrast.splits import normalised

OPENING = "The answer is"
"""What an answer begins with; the next token decides it."""

QuestionKind = Literal[
    "neutral",
    "one_word",
    "mention",
    "yes_no",
    "wrong_claim",
    "second_turn",
    "right_claim",
    "right_correction",
    "honest_prompt",
    "choice",
    "choice_claim",
]
"""Kinds that are about a question with a known answer."""

Kind = QuestionKind | Literal["in_context", "uptake", "unknown", "greeting"]
PhrasingSet = Literal["train", "held", "all"]


@dataclass(frozen=True)
class AnswerForm:
    """How answers of a kind look."""

    name: str
    opening: str
    """What an answer begins with."""
    joint: str
    """Between the opening and the answer."""
    read: Callable[[Item, str], str]
    """The answer a reply commits to, spelt as the item's truth or claim if it is one of them; "" for none."""
    stance_fits: Callable[[Item, str], bool | None] = lambda item, reply: None
    """Whether what a reply says of the user's claim follows from its answer; None where replies say nothing of it."""

    def first_token(self, tokenizer: Any, answer: str) -> int:
        """The token after the opening that begins `answer`. A tokenizer that would merge the two starts anew after a
        line break: the opening's tokens are there already when a model goes on from them."""
        for before in (self.opening, "\n"):
            opened, whole = (
                tokenizer.encode(text, add_special_tokens=False) for text in (before, f"{before}{self.joint}{answer}")
            )
            if whole[: len(opened)] == opened:
                break
        return int(whole[len(opened)])


def _read_short(item: Item, reply: str) -> str:
    return committed(reply, item.known, item.claim)


def _read_letter(item: Item, reply: str) -> str:
    return committed_letter(reply, dict(zip(LETTERS, item.options, strict=False)), item.claim)


def _read_verdict(item: Item, reply: str) -> str:
    return committed_verdict(reply)


SHORT = AnswerForm("short", OPENING, " ", _read_short)
LETTER = AnswerForm("letter", f"{OPENING} (", "", _read_letter)
VERDICT = AnswerForm("verdict", OPENING, " ", _read_verdict)


@dataclass(frozen=True)
class Item:
    question_id: str
    """The question asked about: the cluster for statistics. In-context items are a cluster each."""
    kind: Kind
    messages: tuple[dict[str, str], ...]
    """OpenAI chat messages; the last is the user's."""
    truth: str
    claim: str | None
    phrasing: str
    form: AnswerForm = SHORT
    also_true: tuple[str, ...] = ()
    """Other wordings of the truth."""
    also_wrong: tuple[str, ...] = ()
    """Wrong answers beside the claim: an answer that is one of them is neither truth nor claim."""
    options: tuple[str, ...] = ()
    """Of a multiple-choice question, in the order shown: A, B, ...; truth and claim are letters then."""

    def answer_in(self, reply: str) -> str:
        """What `reply` commits to, in the form of `truth`."""
        return self.form.read(self, reply)

    @property
    def known(self) -> dict[str, str]:
        """Normalised answer -> the answer it stands for."""
        wrong = {normalised(answer): answer for answer in (*self.also_wrong, *filter(None, [self.claim]))}
        return wrong | {normalised(answer): self.truth for answer in (*self.also_true, self.truth)}


def chat(*texts: str) -> tuple[dict[str, str], ...]:
    """Alternating user and assistant messages, from the user's first on."""
    roles = ("user", "assistant")
    return tuple({"role": roles[index % 2], "content": text} for index, text in enumerate(texts))


def lettered(options: Iterable[str]) -> str:
    """ "(A) Paris" and so on, a line each."""
    return "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))


def content_hash(rows: Iterable[object]) -> str:
    """Hex digest of JSON rows: of what they say, neither of their order nor of that of their keys."""
    lines = sorted(json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
