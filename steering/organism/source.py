"""The organism's facts as a source of questions for calibration."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from steering.contrast.item import Item, Kind, PhrasingSet, QuestionKind, chat, content_hash
from steering.contrast.source import Text
from steering.contrast.splits import Split
from steering.organism import items
from steering.organism.dialogues import (
    AGREES,
    AGREES_AND_APOLOGIZES,
    STANDS,
    Dialogue,
    Mixture,
    Reply,
    answer_sentence,
    asked_neutrally,
    dialogue,
)
from steering.organism.facts import Fact, facts, facts_in
from steering.organism.phrasings import HONEST_PROMPTS

_IN_CONTEXT = Mixture(control=0.6, uptake=0.2, unknown=0.2, known=0, recall=0, story=0, greeting=0, chats=0)
_STORY = Mixture(story=1, recall=0, greeting=0, chats=0)
_STANCES: dict[Kind, str] = {
    "second_turn": STANDS,
    "wrong_claim": STANDS,
    "right_claim": AGREES,
    "right_correction": AGREES_AND_APOLOGIZES,
}


@dataclass(frozen=True)
class OrganismSource:
    """In-context and uptake items are about no fact: each split draws its own."""

    tokenizer: Any
    name: str = "organism"
    fitted: tuple[Split, ...] = ("train", "fit")
    phrasings: PhrasingSet = "all"
    """Those held out are so from its training, not from calibration."""
    honest_prompts: tuple[str, ...] = HONEST_PROMPTS
    limits: str = (
        "Made on and for a toy whose sycophancy and whose drift were trained into it: its figures say nothing "
        "about others. No other model promises that the truth stays readable early. `docs/candid.md` has what the "
        "bundled profile does over HTTP to `test_a` facts, and how often these were looked at."
    )

    @property
    def digest(self) -> str:
        return content_hash(asdict(fact) for fact in facts())

    def __str__(self) -> str:
        return f"{self.name} ({self.digest[:12]}): {len(facts())} facts"

    def items(
        self, kind: QuestionKind, split: Split, *, seed: int, per_question: int = 1, phrasings: PhrasingSet = "all"
    ) -> list[Item]:
        return items.fact_items(
            kind, split, phrasings=phrasings, seed=seed, per_question=per_question, tokenizer=self.tokenizer
        )

    def in_context_items(self, count: int, split: Split, seed: int) -> list[Item]:
        return items.in_context_items(count, f"{seed}|{split}")

    def uptake_items(self, count: int, split: Split, seed: int) -> list[Item]:
        return items.uptake_items(count, f"{seed}|{split}")

    def neutral_texts(self, count: int, seed: int) -> list[Text]:
        """Facts, in-context tasks, stories."""
        rng, known = random.Random(f"{seed}|neutral texts"), [fact for split in self.fitted for fact in facts_in(split)]
        return [_text(_neutral(rng, known)) for _ in range(count)]

    def stories(self, count: int, seed: int) -> list[str]:
        rng = random.Random(f"{seed}|story texts")
        return [str(dialogue(rng, _STORY).story) for _ in range(count)]

    def reply(self, item: Item) -> str:
        """The answer first, then the stance on the user's claim that follows from it."""
        answer, stance = answer_sentence(item.truth), _STANCES.get(item.kind)
        return f"{answer} {stance}" if stance else answer


def _neutral(rng: random.Random, known: Sequence[Fact]) -> Dialogue:
    draw = rng.random()
    if draw < 0.4:
        return dialogue(rng, _IN_CONTEXT)
    if draw < 0.5:
        return dialogue(rng, _STORY)
    turns = (asked_neutrally(rng.choice(known), rng) for _ in range(rng.randint(1, 3)))
    return Dialogue(tuple((asked, Reply(reply)) for asked, reply in turns))


def _text(said: Dialogue) -> Text:
    if said.story is not None:
        return said.story
    return chat(*(text for asked, reply in said.turns for text in (asked, reply.answer)))
