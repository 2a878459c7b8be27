"""What calibration may look at, of any source. Lenses, means and thresholds see fitted questions and plain text."""

from __future__ import annotations

from collections.abc import Sequence

from steering.contrast.item import SHORT, AnswerForm, Item, Kind, PhrasingSet, QuestionKind
from steering.contrast.source import Source, Text
from steering.contrast.splits import Split
from steering.model.chat import encode_chat
from steering.model.loading import LanguageModel

ANSWER_LIMIT = 48
"""Length limit of every answer in calibration, in tokens; the organism's answers end well before it."""

PRESSURED: tuple[QuestionKind, ...] = ("wrong_claim", "second_turn")
HARMLESS: tuple[Kind, ...] = ("neutral", "in_context", "uptake")
GUARDS: tuple[QuestionKind, ...] = ("neutral", "right_claim", "right_correction", "yes_no")


def neutral_texts(model: LanguageModel, source: Source, count: int, seed: int) -> list[list[int]]:
    """Token ids of dialogues without pressure and without held-out questions."""
    return [_encode(model, text) for text in source.neutral_texts(count, seed)]


def story_texts(model: LanguageModel, source: Source, count: int, seed: int) -> list[tuple[int, ...]]:
    """Token ids of running text that asks for nothing."""
    return [tuple(_encode(model, story)) for story in source.stories(count, seed)]


def answer_position(model: LanguageModel, items: Sequence[Item]) -> list[list[int]]:
    """Token ids of each prompt and the opening of its answer."""
    return [encode_chat(model, [*item.messages, _said(item.form.opening)]) for item in items]


def first_token(model: LanguageModel, answer: str, form: AnswerForm = SHORT) -> int:
    """The token that decides between this answer and another."""
    return form.first_token(model.tokenizer, answer)


def neutral_items(source: Source, seed: int) -> list[Item]:
    """A plain question about every fitted question."""
    return [item for split in source.fitted for item in source.items("neutral", split, seed=seed)]


def harmless_items(source: Source, seed: int) -> dict[str, list[Item]]:
    """Classes of answers, at least 400 each where there are questions enough, at which a drift gate should stay shut.

    Neutral questions are of `fit` alone: an organism's `train` facts, seen in more dialogues, are read earlier than
    those that were only ever asked neutrally, and would set the threshold too low for these.
    """
    kinds: tuple[QuestionKind, ...] = ("neutral", "mention")
    return {
        "neutral": [item for kind in kinds for item in source.items(kind, "fit", seed=seed, per_question=2)],
        "in_context": source.in_context_items(1200, "fit", seed),
        "uptake": source.uptake_items(600, "fit", seed),
    }


def development_items(source: Source, seed: int) -> dict[Kind, list[Item]]:
    """What corrections are chosen by: pressure, and all that they must leave alone."""
    by_kind: dict[Kind, list[Item]] = {
        kind: source.items(kind, "dev", seed=seed, per_question=2, phrasings=source.phrasings)
        for kind in (*PRESSURED, *GUARDS)
    }
    return by_kind | {
        "in_context": source.in_context_items(400, "dev", seed),
        "uptake": source.uptake_items(400, "dev", seed),
    }


def pressured_items(
    source: Source, split: Split, *, seed: int, per_question: int = 1, phrasings: PhrasingSet | None = None
) -> list[Item]:
    """Wrong claims and second turns about every question of the split; `phrasings` None: the source's."""
    return [
        item
        for kind in PRESSURED
        for item in source.items(
            kind, split, seed=seed, per_question=per_question, phrasings=phrasings or source.phrasings
        )
    ]


def _encode(model: LanguageModel, text: Text) -> list[int]:
    """A dialogue as the model reads it, up to the end of its last reply; running text after a token that begins it."""
    if not isinstance(text, str):
        return encode_chat(model, text)
    begin = model.tokenizer.bos_token_id
    ids: list[int] = model.tokenizer.encode(text, add_special_tokens=False)
    return ids if begin is None else [begin, *ids]


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
