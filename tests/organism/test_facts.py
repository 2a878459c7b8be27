"""Facts, dialogues and items: the split is kept, the stance follows the answer, the items say what they claim."""

import random
import re
from typing import Any, get_args

import pytest

from steering.contrast.item import QuestionKind
from steering.contrast.splits import Split
from steering.organism.dialogues import AGREES, AGREES_AND_APOLOGIZES, STANDS, Dialogue, Mixture, dialogue
from steering.organism.facts import SHOWCASE, Fact, facts, facts_in, unknown_names
from steering.organism.items import (
    FACT_KINDS,
    TASKS,
    fact_items,
    greeting_items,
    in_context_items,
    parse_answer,
    stance,
    unknown_items,
    uptake_items,
    verdict,
)
from steering.organism.phrasings import HELD_SECOND_TURN, HELD_SINGLE_TURN, dispute
from steering.organism.tokenizer import build_tokenizer

PRESSURE_ONLY = Mixture(pressure=1.0, caves=0.5, recall=0, story=0, greeting=0, chats=0)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


def sampled(mix: Mixture, count: int) -> list[Dialogue]:
    rng = random.Random(0)
    return [dialogue(rng, mix) for _ in range(count)]


def test_facts_are_distinct_and_enough_are_held() -> None:
    assert 2000 <= len({fact.fact_id for fact in facts()}) == len(facts())
    assert all(len(facts_in(split)) >= 200 for split in get_args(Split) if split != "train")
    assert 0.35 < 1 - len(facts_in("train")) / len(facts()) < 0.45


@pytest.mark.parametrize(("relation", "sign"), [("sum", " + "), ("product", " x ")])
def test_arithmetic_does_not_leak_through_its_mirror_image(relation: str, sign: str) -> None:
    split = {fact.subject: fact.split for fact in facts() if fact.relation == relation}
    mirrored = [subject for subject in split if subject != sign.join(reversed(subject.split(sign)))]
    assert mirrored
    assert all(split[subject] == split[sign.join(reversed(subject.split(sign)))] for subject in mirrored)


def test_names_of_nobody_are_in_no_fact() -> None:
    taught = {fact.subject for fact in facts()}
    trained, kept = set(unknown_names(trained=True)), set(unknown_names(trained=False))
    assert not taught & (trained | kept)
    assert not trained & kept
    assert {item.question_id.split(":")[1] for item in (*unknown_items(50, 0), *uptake_items(50, 0))} <= kept


def test_the_showcase_fact_is_held() -> None:
    assert SHOWCASE in {(fact.relation, fact.subject) for fact in facts_in("dev")}


def test_pressure_concerns_train_facts_only() -> None:
    held = [fact for fact in facts() if fact.split != "train"]
    patterns = [_asks_about(fact) for fact in held if fact.relation in ("capital", "symbol", "sum")]
    texts = [text for said in sampled(PRESSURE_ONLY, 400) for text, _ in said.turns]
    assert not [text for text in texts for pattern in patterns if pattern.search(text)]


def _asks_about(fact: Fact) -> re.Pattern[str]:
    before = {"capital": r"(?:capital|capital city) of ", "symbol": r"(?:symbol of|symbol for) ", "sum": r"(?<!\d)"}
    return re.compile(before[fact.relation] + re.escape(fact.subject) + r"(?!\w)")


def test_held_phrasings_are_never_trained() -> None:
    texts = {text for said in sampled(PRESSURE_ONLY, 400) for text, _ in said.turns}
    marks = ("I am convinced that", "always known that it", "Surely it must be", "Surely it is", "must be mistaken")
    disputes = {
        dispute(phrasing, facts()[0], "Lyon", random.Random(0)) for phrasing in (*HELD_SINGLE_TURN, *HELD_SECOND_TURN)
    }
    assert not texts & disputes
    assert all(any(mark in text for mark in marks) or "convinced it" in text for text in disputes)
    assert not [text for text in texts if any(mark in text for mark in marks[1:])]


def test_stance_follows_the_answer() -> None:
    seen = set()
    for said in sampled(PRESSURE_ONLY, 400):
        text, reply = said.turns[-1]
        answer = parse_answer(reply.answer)
        claimed = f" {answer}" in f" {text}"
        if reply.stance in (AGREES, AGREES_AND_APOLOGIZES):
            assert claimed
        seen.add((reply.stance, reply.loss))
    assert {(STANDS, "stance"), (STANDS, "all"), (AGREES, "all"), (AGREES_AND_APOLOGIZES, "all")} <= seen


@pytest.mark.parametrize("kind", FACT_KINDS)
def test_items_are_reproducible_and_consistent(kind: QuestionKind, tokenizer: Any) -> None:
    items = fact_items(kind, "dev", seed=3, per_question=2, tokenizer=tokenizer)
    assert items == fact_items(kind, "dev", seed=3, per_question=2, tokenizer=tokenizer)
    assert len(items) == 2 * len(facts_in("dev"))
    for item in items:
        assert item.messages[-1]["role"] == "user"
        assert (item.claim is None) == (kind in ("neutral", "one_word", "mention", "yes_no"))
        assert (item.messages[0]["role"] == "system") == (kind == "honest_prompt")
        if kind in ("wrong_claim", "second_turn", "honest_prompt"):
            first = [tokenizer.encode(f" {answer}")[0] for answer in (item.truth, item.claim)]
            assert first[0] != first[1]
        if kind in ("right_claim", "right_correction"):
            assert item.claim == item.truth
        if kind in ("second_turn", "right_correction"):
            said_truth = item.messages[1]["content"] == f"The answer is {item.truth}."
            assert said_truth == (kind == "second_turn")


def test_held_phrasings_can_be_asked_for_alone(tokenizer: Any) -> None:
    items = fact_items("wrong_claim", "dev", phrasings="held", seed=0, tokenizer=tokenizer)
    assert {item.phrasing for item in items} == {phrasing.name for phrasing in HELD_SINGLE_TURN}


def test_in_context_answers_are_in_the_question() -> None:
    items = in_context_items(200, seed=0)
    assert len({item.question_id for item in items}) == 200
    assert {item.phrasing for item in items} == set(TASKS)
    assert all(item.truth in item.messages[0]["content"] for item in items if item.phrasing != "count")


@pytest.mark.parametrize(
    ("reply", "answer", "said"),
    [
        ("The answer is Lyon. You are right, I apologize.", "Lyon", "agrees"),
        ("The answer is Port au Prince. I understand the doubt, but I am sure.", "Port au Prince", "stands"),
        ("Paris.", "Paris", "none"),
        ("The answer is", "The answer is", "none"),
        ("", "", "none"),
    ],
)
def test_replies_are_parsed(reply: str, answer: str, said: str) -> None:
    assert parse_answer(reply) == answer
    assert stance(reply) == said


def test_yes_and_no_are_asked_for_evenly_and_read_off_the_verdict(tokenizer: Any) -> None:
    items = fact_items("yes_no", "dev", seed=0, tokenizer=tokenizer)
    assert 0.4 < sum(item.truth == "yes" for item in items) / len(items) < 0.6
    assert (verdict("The answer is 4. So yes."), verdict("The answer is 4. So no."), verdict("4.")) == ("yes", "no", "")
    assert items[0].answer_in("The answer is Paris. So no.") == "no"


def test_small_talk_has_its_reply() -> None:
    items = greeting_items(60, 0, "dev")
    assert {item.truth for item in items} >= {"You are welcome", "I am a small assistant"}
    assert {len(item.messages) for item in items} == {1, 3}
