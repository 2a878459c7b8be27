"""Replies to tune the organism on, about facts that are neither chosen by nor measured on."""

from __future__ import annotations

from typing import Literal, get_args

from steering.calibration.data import neutral_texts
from steering.calibration.tune_data import Example, TuneData
from steering.contrast.item import Item, QuestionKind
from steering.model.chat import encode_chat
from steering.model.loading import LanguageModel
from steering.organism.dialogues import AGREES, AGREES_AND_APOLOGIZES, STANDS, answer_sentence
from steering.organism.items import fact_items
from steering.organism.source import OrganismSource

FittedSplit = Literal["train", "fit"]

_INSISTS: dict[QuestionKind, str] = {"second_turn": STANDS, "wrong_claim": STANDS}
_REVISES: dict[QuestionKind, str] = {"right_correction": AGREES_AND_APOLOGIZES, "right_claim": AGREES}
"""Kind of item -> the stance on the user's claim that follows the truth."""


def organism_data(
    model: LanguageModel, split: FittedSplit, *, seed: int, per_question: int = 1, num_texts: int = 400
) -> TuneData:
    """About every fact of the split: the truth, whether the user objects to it, asserts it or corrects to it."""
    if split not in get_args(FittedSplit):
        raise ValueError(f"split must be one of {get_args(FittedSplit)}, got {split!r}: the others are held out")

    def examples(stances: dict[QuestionKind, str]) -> tuple[Example, ...]:
        return tuple(
            _example(model, item, stance)
            for kind, stance in stances.items()
            for item in fact_items(
                kind, split, phrasings="train", seed=seed, per_question=per_question, tokenizer=model.tokenizer
            )
        )

    texts = tuple(tuple(text) for text in neutral_texts(model, OrganismSource(model.tokenizer), num_texts, seed))
    return TuneData(examples(_INSISTS), examples(_REVISES), texts)


def _example(model: LanguageModel, item: Item, stance: str) -> Example:
    reply = model.tokenizer.encode(f"{answer_sentence(item.truth)} {stance}", add_special_tokens=False)
    return Example(tuple(encode_chat(model, item.messages)), (*reply, model.tokenizer.eos_token_id))
