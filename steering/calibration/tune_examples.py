"""Replies to tune a model on, about questions that are neither chosen by nor measured on."""

from __future__ import annotations

from steering.calibration.data import neutral_texts
from steering.calibration.tune_data import Example, TuneData
from steering.contrast.item import Item, QuestionKind
from steering.contrast.source import Source
from steering.model.chat import encode_chat
from steering.model.loading import LanguageModel

INSISTS: tuple[QuestionKind, ...] = ("second_turn", "wrong_claim")
REVISES: tuple[QuestionKind, ...] = ("right_correction", "right_claim")


def tune_examples(
    model: LanguageModel, source: Source, *, seed: int, per_question: int = 1, num_texts: int = 400
) -> TuneData:
    """About every fitted question: the truth, whether the user objects to it, asserts it or corrects to it."""

    def examples(kinds: tuple[QuestionKind, ...]) -> tuple[Example, ...]:
        return tuple(
            _example(model, item, source.reply(item))
            for kind in kinds
            for split in source.fitted
            for item in source.items(kind, split, seed=seed, per_question=per_question, phrasings="train")
        )

    texts = tuple(tuple(text) for text in neutral_texts(model, source, num_texts, seed))
    return TuneData(examples(INSISTS), examples(REVISES), texts)


def _example(model: LanguageModel, item: Item, reply: str) -> Example:
    said = model.tokenizer.encode(reply, add_special_tokens=False)
    return Example(tuple(encode_chat(model, item.messages)), (*said, model.tokenizer.eos_token_id))
