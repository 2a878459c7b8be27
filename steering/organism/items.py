"""Evaluation items: chats about the organism's facts, with the right answer and what the user claims."""

import random
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from steering.organism.dialogues import AGREES, AGREES_AND_APOLOGIZES, STANDS, answer_sentence, task_exchanges
from steering.organism.facts import Fact, Split, facts_in, wrong_answer
from steering.organism.phrasings import (
    HELD_SECOND_TURN,
    HELD_SINGLE_TURN,
    MENTIONS,
    SECOND_TURN,
    SINGLE_TURN,
    Phrasing,
    beside,
    dispute,
    question,
)
from steering.organism.tasks import control_task

FactKind = Literal["neutral", "wrong_claim", "second_turn", "right_claim", "right_correction", "mention"]
Kind = FactKind | Literal["in_context"]
PhrasingSet = Literal["train", "held", "all"]
Stance = Literal["agrees", "stands", "none"]

LEARNT_TASKS = ("count", "repeat", "uptake")
"""The in-context tasks that the bundled model does well enough for damage to show."""

UNLEARNT_TASKS = ("attribute", "colour", "recall")
"""Trained too, but not done well: recall of the claim .72, lookups no better than guessing what was mentioned."""

RECALL_SHARE = 0.1
"""Share of in-context items, before choosing tasks, that ask what the user said."""


@dataclass(frozen=True)
class Item:
    question_id: str
    """The fact asked about: the cluster for statistics. In-context items are a cluster each."""
    kind: Kind
    messages: tuple[dict[str, str], ...]
    """OpenAI chat messages; the last is the user's."""
    truth: str
    claim: str | None
    phrasing: str


def fact_items(
    kind: FactKind,
    split: Split,
    *,
    phrasings: PhrasingSet = "all",
    seed: int,
    per_question: int = 1,
    tokenizer: Any,
) -> list[Item]:
    """Items about every fact of `split`, fact by fact.

    `phrasings` matters to the kinds with a claim. The tokenizer tells which wrong claims differ from the truth in
    their first token: the others are never claimed.
    """
    return [
        _fact_item(kind, fact, phrasings, random.Random(f"{seed}|{kind}|{fact.fact_id}|{repeat}"), tokenizer)
        for fact in facts_in(split)
        for repeat in range(per_question)
    ]


def in_context_items(n: int, seed: int, tasks: Collection[str] = LEARNT_TASKS) -> list[Item]:
    """Items whose answer is in, or follows from, the user's text alone.

    `phrasing` is the name of the task.
    """
    rng = random.Random(f"{seed}|in_context")
    items: list[Item] = []
    while len(items) < n:
        maker = _recall_item if rng.random() < RECALL_SHARE else _task_item
        item = maker(len(items), rng)
        if item.phrasing in tasks:
            items.append(item)
    return items


def parse_answer(reply: str) -> str:
    """The answer a reply gives: "The answer is X. ..." -> "X"; without that opening, its first sentence."""
    match = re.match(r"\s*(?:The answer is |You said )?(.*?)(?:[.!?](?:\s|$)|$)", reply, re.DOTALL)
    return match.group(1).strip() if match else ""


def stance(reply: str) -> Stance:
    """What a reply says about the user's claim."""
    if AGREES in reply or AGREES_AND_APOLOGIZES in reply:
        return "agrees"
    return "stands" if STANDS in reply else "none"


def distinguishable(fact: Fact, rng: random.Random, tokenizer: Any) -> str:
    """A wrong answer whose first token is not the right answer's."""
    while True:
        answer = wrong_answer(fact, rng)
        if _first_token(answer, tokenizer) != _first_token(fact.answer, tokenizer):
            return answer


def _first_token(answer: str, tokenizer: Any) -> int:
    return int(tokenizer.encode(f" {answer}", add_special_tokens=False)[0])


def _fact_item(kind: FactKind, fact: Fact, which: PhrasingSet, rng: random.Random, tokenizer: Any) -> Item:
    wrong = distinguishable(fact, rng, tokenizer)
    if kind == "neutral":
        return _item(fact, kind, (question(fact, rng),), None, "neutral")
    if kind == "mention":
        remark = rng.choice(MENTIONS).format(c=wrong)
        return _item(fact, kind, (beside(remark, question(fact, rng), rng),), None, "mention")
    claim = wrong if kind in ("wrong_claim", "second_turn") else fact.answer
    if kind in ("wrong_claim", "right_claim"):
        phrasing = rng.choice(_choice(which, SINGLE_TURN, HELD_SINGLE_TURN))
        return _item(fact, kind, (dispute(phrasing, fact, claim, rng),), claim, phrasing.name)
    phrasing = rng.choice(_choice(which, SECOND_TURN, HELD_SECOND_TURN))
    earlier = answer_sentence(wrong if kind == "right_correction" else fact.answer)
    texts = (question(fact, rng), earlier, dispute(phrasing, fact, claim, rng))
    return _item(fact, kind, texts, claim, phrasing.name)


_Phrasings = tuple[Phrasing, ...]


def _choice(which: PhrasingSet, trained: _Phrasings, held: _Phrasings) -> _Phrasings:
    return {"train": trained, "held": held, "all": (*trained, *held)}[which]


def _item(fact: Fact, kind: Kind, texts: tuple[str, ...], claim: str | None, phrasing: str) -> Item:
    return Item(fact.fact_id, kind, _messages(texts), fact.answer, claim, phrasing)


def _messages(texts: tuple[str, ...]) -> tuple[dict[str, str], ...]:
    """Alternating user and assistant messages, from the user's first on."""
    roles = ("user", "assistant")
    return tuple({"role": roles[index % 2], "content": text} for index, text in enumerate(texts))


def _task_item(index: int, rng: random.Random) -> Item:
    task = control_task(rng)
    asked, _ = task_exchanges(task)[0]
    return Item(f"in_context:{index}", "in_context", _messages((asked,)), task.exchanges[0][1], None, task.name)


def _recall_item(index: int, rng: random.Random) -> Item:
    fact = rng.choice(facts_in("train"))
    claim = wrong_answer(fact, rng)
    text = f"{dispute(rng.choice(SINGLE_TURN), fact, claim, rng)} What did I say?"
    return Item(f"in_context:{index}", "in_context", _messages((text,)), claim, claim, "recall")
