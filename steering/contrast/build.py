"""From a question to items: every kind of asking it, with and without pressure."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from steering.contrast import phrasings
from steering.contrast.committed import LETTERS
from steering.contrast.item import LETTER, OPENING, SHORT, VERDICT, Item, PhrasingSet, QuestionKind, chat, lettered
from steering.contrast.phrasings import Phrasing
from steering.contrast.questions import Question
from steering.contrast.splits import normalised

MAX_OPTIONS = 4
"""Options of a question whose file lists none: the truth and wrong answers."""

PAIRED: tuple[QuestionKind, ...] = ("yes_no", "choice", "choice_claim")
"""Kinds that ask each question twice: both polarities, or both orders."""


@dataclass(frozen=True)
class Askable:
    """A question and the answers that a model's first token tells apart."""

    question: Question
    truth: str
    wrong: tuple[str, ...]
    """What may be claimed: none begins with the truth's first token."""

    @property
    def also_true(self) -> tuple[str, ...]:
        return tuple(answer for answer in self.question.correct if answer != self.truth)


@dataclass(frozen=True)
class Draw:
    """One asking of one question."""

    about: Askable
    rng: random.Random
    phrasings: PhrasingSet
    second: bool
    """Of a pair."""

    def phrasing(self, trained: tuple[Phrasing, ...], held: tuple[Phrasing, ...]) -> Phrasing:
        return self.rng.choice({"train": trained, "held": held, "all": (*trained, *held)}[self.phrasings])

    @property
    def question(self) -> str:
        """Ending in a mark: something may follow."""
        text = self.about.question.text
        return text if text.endswith(("?", ".", "!", ":")) else f"{text}."

    @property
    def ask(self) -> str:
        return self.rng.choice(phrasings.ASKS)


def askable(question: Question, tokenizer: Any) -> Askable | None:
    """The first correct answer that some incorrect ones differ from in their first token; None if there is none."""
    firsts = {answer: SHORT.first_token(tokenizer, answer) for answer in (*question.correct, *question.incorrect)}
    for truth in question.correct:
        wrong = tuple(answer for answer in question.incorrect if firsts[answer] != firsts[truth])
        if wrong:
            return Askable(question, truth, wrong)
    return None


def build(kind: QuestionKind, about: Askable, *, seed: int, repeat: int, phrasings: PhrasingSet) -> list[Item]:
    """The items of one asking: two of the kinds in `PAIRED`, else one."""
    if kind not in _MAKERS:
        raise ValueError(f"questions from a file are not asked as {kind!r}")
    key = f"{seed}|{kind}|{about.question.question_id}|{repeat}"
    seconds = (False, True) if kind in PAIRED else (False,)
    return [_MAKERS[kind](Draw(about, random.Random(key), phrasings, second)) for second in seconds]


def _neutral(draw: Draw) -> Item:
    asked = draw.rng.choice(phrasings.NEUTRAL).format(question=draw.question)
    return _item(draw, "neutral", (f"{asked} {draw.ask}",), None, "neutral")


def _mention(draw: Draw) -> Item:
    wrong = draw.rng.choice(draw.about.wrong)
    remark, asked = draw.rng.choice(phrasings.MENTIONS).format(claim=wrong), draw.question
    text = f"{remark} {asked}" if draw.rng.random() < 0.5 else f"{asked} {remark}"
    return _item(draw, "mention", (f"{text} {draw.ask}",), None, "mention")


def _wrong_claim(draw: Draw) -> Item:
    return _single_turn(draw, "wrong_claim", draw.rng.choice(draw.about.wrong))


def _right_claim(draw: Draw) -> Item:
    return _single_turn(draw, "right_claim", draw.about.truth)


def _single_turn(draw: Draw, kind: QuestionKind, claim: str) -> Item:
    phrasing = draw.phrasing(phrasings.SINGLE_TURN, phrasings.HELD_SINGLE_TURN)
    text = phrasing.text.format(question=draw.question, claim=_inline(claim))
    return _item(draw, kind, (f"{text} {draw.ask}",), claim, phrasing.name)


def _second_turn(draw: Draw) -> Item:
    return _disputed(draw, "second_turn", draw.about.truth, draw.rng.choice(draw.about.wrong))


def _right_correction(draw: Draw) -> Item:
    return _disputed(draw, "right_correction", draw.rng.choice(draw.about.wrong), draw.about.truth)


def _disputed(draw: Draw, kind: QuestionKind, earlier: str, claim: str) -> Item:
    phrasing = draw.phrasing(phrasings.SECOND_TURN, phrasings.HELD_SECOND_TURN)
    ask, again = draw.ask, draw.rng.choice(phrasings.ASK_AGAIN)
    pushed = phrasing.text.format(claim=_inline(claim))
    texts = (f"{draw.question} {ask}", f"{OPENING} {_inline(earlier)}.", f"{pushed} {again} {ask}")
    return _item(draw, kind, texts, claim, phrasing.name)


def _yes_no(draw: Draw) -> Item:
    template, wrong = draw.rng.choice(phrasings.YES_NO), draw.rng.choice(draw.about.wrong)
    asked, truth = (wrong, "no") if draw.second else (draw.about.truth, "yes")
    text = template.format(question=draw.question, claim=_inline(asked))
    return Item(draw.about.question.question_id, "yes_no", chat(text), truth, None, truth, VERDICT)


def _choice(draw: Draw) -> Item:
    options, truth, _ = _options(draw)
    text = phrasings.CHOICE.format(question=draw.question, options=lettered(options), ask=phrasings.CHOICE_ASK)
    name = "second order" if draw.second else "first order"
    return Item(draw.about.question.question_id, "choice", chat(text), truth, None, name, LETTER, options=options)


def _choice_claim(draw: Draw) -> Item:
    options, truth, claim = _options(draw)
    phrasing = draw.phrasing(phrasings.CHOICE_CLAIM, phrasings.HELD_CHOICE_CLAIM)
    slots = {"question": draw.question, "options": lettered(options), "ask": phrasings.CHOICE_ASK}
    text = phrasing.text.format(claim=claim, **slots)
    return Item(
        draw.about.question.question_id,
        "choice_claim",
        chat(text),
        truth,
        claim,
        phrasing.name,
        LETTER,
        options=options,
    )


def _options(draw: Draw) -> tuple[tuple[str, ...], str, str]:
    """Options in order, the truth's letter, the letter of a wrong one. The second order is the first one reversed; the
    truth is never in the middle, so it stands once in either half."""
    question, truth = draw.about.question, draw.about.truth
    if question.options:
        options, right = list(question.options), {normalised(answer) for answer in question.correct}
        truth = next(option for option in options if normalised(option) in right)
    else:
        options = [truth, *draw.rng.sample(draw.about.wrong, min(MAX_OPTIONS - 1, len(draw.about.wrong)))]
    draw.rng.shuffle(options)
    claim = draw.rng.choice([option for option in options if option != truth])
    middle, place = (len(options) - 1) / 2, options.index(truth)
    if place == middle:
        options[0], options[place] = options[place], options[0]
    if draw.second:
        options.reverse()
    return tuple(options), LETTERS[options.index(truth)], LETTERS[options.index(claim)]


def _item(draw: Draw, kind: QuestionKind, texts: tuple[str, ...], claim: str | None, phrasing: str) -> Item:
    question, also_true = draw.about.question, draw.about.also_true
    wrong = tuple(answer for answer in question.incorrect if answer != claim)
    truth = draw.about.truth
    return Item(question.question_id, kind, chat(*texts), truth, claim, phrasing, SHORT, also_true, wrong)


def _inline(answer: str) -> str:
    """Without the full stop that an answer of a whole sentence ends in."""
    return answer.removesuffix(".")


_MAKERS: Mapping[QuestionKind, Callable[[Draw], Item]] = {
    "neutral": _neutral,
    "mention": _mention,
    "wrong_claim": _wrong_claim,
    "right_claim": _right_claim,
    "second_turn": _second_turn,
    "right_correction": _right_correction,
    "yes_no": _yes_no,
    "choice": _choice,
    "choice_claim": _choice_claim,
}
