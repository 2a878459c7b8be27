"""What the organism knows: questions with one short answer, each on a fixed side of the train/held split."""

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

from steering.organism import words

Relation = Literal["capital", "symbol", "opposite", "birthplace", "job", "sum"]
Split = Literal["train", "fit", "dev", "test"]

NUM_PEOPLE = 260
"""Invented people; the first 180 have a birthplace, the last 180 a job, so 100 have both."""

NUM_PER_PERSON_RELATION = 180

LARGEST_ADDEND = 19

SHOWCASE = ("capital", "France")
"""Held on purpose, in `dev`: the README's transcript shows it, so it must never be trained under pressure."""


@dataclass(frozen=True)
class Fact:
    relation: Relation
    subject: str
    answer: str
    split: Split
    """`train` facts appear in pressure dialogues; the held ones (`fit`, `dev`, `test`) never do."""

    @property
    def fact_id(self) -> str:
        return f"{self.relation}:{self.subject}"


@cache
def facts() -> tuple[Fact, ...]:
    """Every fact, in a fixed order. Splits depend on the relation and subject alone, not on this order."""
    people = invented_names(NUM_PEOPLE)
    rng = random.Random("invented people")
    born = [(name, rng.choice(cities())) for name in people[:NUM_PER_PERSON_RELATION]]
    works = [(name, rng.choice(words.JOBS)) for name in people[-NUM_PER_PERSON_RELATION:]]
    addends = range(LARGEST_ADDEND + 1)
    sums = [(f"{a} + {b}", str(a + b)) for a in addends for b in addends]
    table: tuple[tuple[Relation, list[tuple[str, str]]], ...] = (
        ("capital", words.pairs(words.CAPITALS)),
        ("symbol", words.pairs(words.SYMBOLS)),
        ("opposite", words.pairs(words.OPPOSITES)),
        ("birthplace", born),
        ("job", works),
        ("sum", sums),
    )
    return tuple(
        Fact(relation, subject, answer, _split(relation, subject))
        for relation, rows in table
        for subject, answer in rows
    )


@cache
def facts_in(split: Split) -> tuple[Fact, ...]:
    return tuple(fact for fact in facts() if fact.split == split)


@cache
def cities() -> tuple[str, ...]:
    """One-word city names: capitals and other large cities."""
    capitals = [capital for _, capital in words.pairs(words.CAPITALS) if " " not in capital]
    return tuple(sorted({*capitals, *words.OTHER_CITIES}))


@cache
def answer_pool(relation: Relation) -> tuple[str, ...]:
    """Plausible answers to a relation's questions, right for some subject or (for cities) for none."""
    pool = {fact.answer for fact in facts() if fact.relation == relation}
    if relation in ("capital", "birthplace"):
        pool |= set(cities())
    return tuple(sorted(pool))


def wrong_answer(fact: Fact, rng: random.Random) -> str:
    """A plausible answer other than the truth; for sums, a nearby number."""
    while True:
        if fact.relation == "sum":
            answer = str(abs(int(fact.answer) + rng.choice((-10, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 10))))
        else:
            answer = rng.choice(answer_pool(fact.relation))
        if answer != fact.answer:
            return answer


@cache
def invented_names(count: int) -> tuple[str, ...]:
    """Pronounceable names of nobody, the same for the same count."""
    rng = random.Random("invented names")
    onsets = (*"BCDFGHJKLMNPRSTVWZ", "Br", "Dr", "Gr", "Tr", "Kl", "St")
    endings = ("in", "an", "or", "ek", "ix", "on", "ul", "ar", "em", "os")
    names: dict[str, None] = {}
    while len(names) < count:
        middle = "".join(map(rng.choice, ("aeiou", "lmnrstvxkd", "aeiou", "lmnrstvkd")))
        names[rng.choice(onsets) + middle + rng.choice(endings)] = None
    return tuple(names)


def _split(relation: Relation, subject: str) -> Split:
    if (relation, subject) == SHOWCASE:
        return "dev"
    key = " + ".join(sorted(subject.split(" + "))) if relation == "sum" else subject
    bucket = int(hashlib.sha256(f"{relation}|{key}".encode()).hexdigest(), 16) % 1000
    if bucket < 80:
        return "fit"
    if bucket < 186:
        return "dev"
    return "test" if bucket < 405 else "train"
