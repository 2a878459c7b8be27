"""What calibration may look at. Lenses, means and thresholds see `train` and `fit` questions and plain text only."""

from __future__ import annotations

import random
from collections.abc import Sequence

from steering.model.chat import encode_chat
from steering.model.loading import LanguageModel
from steering.organism.dialogues import Dialogue, Mixture, Reply, asked_neutrally, dialogue
from steering.organism.facts import Fact, Split, facts_in
from steering.organism.items import (
    FactKind,
    Item,
    Kind,
    PhrasingSet,
    fact_items,
    in_context_items,
    uptake_items,
)

OPENING = "The answer is"
"""What every answer to a question about a fact begins with; the next token decides it."""

ANSWER_LIMIT = 48
"""Length limit of every answer in calibration, in tokens; the organism's answers end well before it."""

PRESSURED: tuple[FactKind, ...] = ("wrong_claim", "second_turn")
HARMLESS: tuple[Kind, ...] = ("neutral", "in_context", "uptake")
GUARDS: tuple[FactKind, ...] = ("neutral", "right_claim", "right_correction", "yes_no")

_FITTED: tuple[Split, ...] = ("train", "fit")
_IN_CONTEXT = Mixture(control=0.6, uptake=0.2, unknown=0.2, known=0, recall=0, story=0, greeting=0, chats=0)
_STORY = Mixture(story=1, recall=0, greeting=0, chats=0)


def neutral_texts(model: LanguageModel, count: int, seed: int) -> list[list[int]]:
    """Token ids of dialogues without pressure and without held-out questions: facts, in-context tasks, stories."""
    rng, known = random.Random(f"{seed}|neutral texts"), [fact for split in _FITTED for fact in facts_in(split)]
    return [_encode(model, _neutral(rng, known)) for _ in range(count)]


def story_texts(model: LanguageModel, count: int, seed: int) -> list[tuple[int, ...]]:
    """Token ids of running text that asks for nothing."""
    rng = random.Random(f"{seed}|story texts")
    return [tuple(_encode(model, dialogue(rng, _STORY))) for _ in range(count)]


def answer_position(model: LanguageModel, items: Sequence[Item]) -> list[list[int]]:
    """Token ids of each prompt and the opening of its answer."""
    opening = model.tokenizer.encode(OPENING, add_special_tokens=False)
    return [encode_chat(model, item.messages) + opening for item in items]


def first_token(model: LanguageModel, answer: str) -> int:
    """The token that decides between this answer and another."""
    return int(model.tokenizer.encode(f" {answer}", add_special_tokens=False)[0])


def neutral_items(model: LanguageModel, seed: int) -> list[Item]:
    """A plain question about every `train` and `fit` fact."""
    return [item for split in _FITTED for item in fact_items("neutral", split, seed=seed, tokenizer=model.tokenizer)]


def harmless_items(model: LanguageModel, seed: int) -> dict[str, list[Item]]:
    """Classes of at least 400 answers at which a drift gate should stay shut.

    Neutral questions are about `fit` facts alone: `train` facts, seen in more dialogues, are read earlier than those
    that were only ever asked neutrally, and would set the threshold too low for these.
    """
    kinds: tuple[FactKind, ...] = ("neutral", "mention")
    return {
        "neutral": [
            item
            for kind in kinds
            for item in fact_items(kind, "fit", seed=seed, per_question=2, tokenizer=model.tokenizer)
        ],
        "in_context": in_context_items(1200, seed),
        "uptake": uptake_items(600, seed),
    }


def development_items(model: LanguageModel, seed: int) -> dict[Kind, list[Item]]:
    """What corrections are chosen by: pressure, and all that they must leave alone."""
    by_kind: dict[Kind, list[Item]] = {
        kind: fact_items(kind, "dev", seed=seed, per_question=2, tokenizer=model.tokenizer)
        for kind in (*PRESSURED, *GUARDS)
    }
    return by_kind | {"in_context": in_context_items(400, seed), "uptake": uptake_items(400, seed)}


def pressured_items(
    model: LanguageModel, split: Split, *, seed: int, per_question: int = 1, phrasings: PhrasingSet = "all"
) -> list[Item]:
    """Wrong claims and second turns about every fact of the split."""
    return [
        item
        for kind in PRESSURED
        for item in fact_items(
            kind, split, phrasings=phrasings, seed=seed, per_question=per_question, tokenizer=model.tokenizer
        )
    ]


def _encode(model: LanguageModel, said: Dialogue) -> list[int]:
    """A dialogue as the model reads it, up to the end of its last reply; a story as plain text."""
    if said.story is not None:
        return [model.tokenizer.bos_token_id, *model.tokenizer.encode(said.story, add_special_tokens=False)]
    messages = [
        {"role": role, "content": text}
        for asked, reply in said.turns
        for role, text in (("user", asked), ("assistant", reply.answer))
    ]
    *before, last = messages
    return [*encode_chat(model, before), *model.tokenizer.encode(last["content"], add_special_tokens=False)]


def _neutral(rng: random.Random, known: Sequence[Fact]) -> Dialogue:
    draw = rng.random()
    if draw < 0.4:
        return dialogue(rng, _IN_CONTEXT)
    if draw < 0.5:
        return dialogue(rng, _STORY)
    turns = (asked_neutrally(rng.choice(known), rng) for _ in range(rng.randint(1, 3)))
    return Dialogue(tuple((asked, Reply(reply)) for asked, reply in turns))
