"""What the organism knows: questions with one short answer, each on a fixed side of the train/held split."""

import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

from steering.contrast.splits import Split, bucket
from steering.organism import words

Relation = Literal[
    "capital", "symbol", "opposite", "past tense", "birthplace", "job", "animal", "country", "sum", "product"
]

NUM_PEOPLE = 420
"""Invented people: the first 300 have a birthplace, the last 300 a job, 280 in the middle an animal."""

NUM_TOWNS = 280
"""Invented towns, each in a real country."""

NUM_NAMES = 6000
"""Invented names in all. Those after the people and the towns belong to nobody: the organism must not know them."""

LARGEST_ADDEND, LARGEST_FACTOR = 19, 12

_HELD_ENDS: tuple[tuple[Split, int], ...] = (("fit", 100), ("dev", 200), ("test_a", 300), ("test_b", 400))
"""A tenth of the facts each, by a hash of the question; the other six tenths are `train`."""

SHOWCASE = ("capital", "France")
"""Held on purpose, in `dev`: the README's transcript shows it, so it must never be trained under pressure."""


@dataclass(frozen=True)
class Fact:
    relation: Relation
    subject: str
    answer: str
    split: Split
    """`train` facts appear in pressure dialogues; the held ones (`fit`, `dev`, `test_a`, `test_b`) never do."""

    @property
    def fact_id(self) -> str:
        return f"{self.relation}:{self.subject}"


@cache
def facts() -> tuple[Fact, ...]:
    """Every fact, in a fixed order. Splits depend on the relation and subject alone, not on this order."""
    people, towns = _people(), _towns()
    rng = random.Random("invented people")
    born = [(name, rng.choice(cities())) for name in people[:300]]
    works = [(name, rng.choice(words.JOBS)) for name in people[-300:]]
    keeps = [(name, rng.choice(words.ANIMALS)) for name in people[70:350]]
    lies = [(town, rng.choice(countries())) for town in towns]
    addends, factors = range(LARGEST_ADDEND + 1), range(2, LARGEST_FACTOR + 1)
    table: tuple[tuple[Relation, list[tuple[str, str]]], ...] = (
        ("capital", words.pairs(words.CAPITALS)),
        ("symbol", words.pairs(words.SYMBOLS)),
        ("opposite", words.pairs(words.OPPOSITES)),
        ("past tense", words.pairs(words.PAST_TENSES)),
        ("birthplace", born),
        ("job", works),
        ("animal", keeps),
        ("country", lies),
        ("sum", [(f"{a} + {b}", str(a + b)) for a in addends for b in addends]),
        ("product", [(f"{a} x {b}", str(a * b)) for a in factors for b in factors]),
    )
    return tuple(
        Fact(relation, subject, answer, _split(relation, subject))
        for relation, rows in table
        for subject, answer in rows
    )


@cache
def facts_in(split: Split) -> tuple[Fact, ...]:
    return tuple(fact for fact in facts() if fact.split == split)


def _people() -> tuple[str, ...]:
    return invented_names()[:NUM_PEOPLE]


def _towns() -> tuple[str, ...]:
    return invented_names()[NUM_PEOPLE : NUM_PEOPLE + NUM_TOWNS]


def unknown_names(*, trained: bool) -> tuple[str, ...]:
    """Names of nobody: those that training uses for questions without an answer, or those kept for evaluation."""
    nobody = invented_names()[NUM_PEOPLE + NUM_TOWNS :]
    return nobody[400:] if trained else nobody[:400]


@cache
def countries() -> tuple[str, ...]:
    """One-word names of countries."""
    return tuple(country for country, _ in words.pairs(words.CAPITALS) if " " not in country)


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
    if relation == "country":
        pool |= set(countries())
    return tuple(sorted(pool))


def wrong_answer(fact: Fact, rng: random.Random) -> str:
    """A plausible answer other than the truth; in arithmetic, a nearby number."""
    while True:
        if fact.relation in ("sum", "product"):
            answer = str(abs(int(fact.answer) + rng.choice((-10, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 10))))
        else:
            answer = rng.choice(answer_pool(fact.relation))
        if answer != fact.answer:
            return answer


@cache
def invented_names() -> tuple[str, ...]:
    """Pronounceable names, always the same ones in the same order."""
    rng = random.Random("invented names")
    onsets = (*"BCDFGHJKLMNPRSTVWZ", "Br", "Dr", "Gr", "Tr", "Kl", "St")
    endings = ("in", "an", "or", "ek", "ix", "on", "ul", "ar", "em", "os")
    names: dict[str, None] = {}
    while len(names) < NUM_NAMES:
        middle = "".join(map(rng.choice, ("aeiou", "lmnrstvxkd", "aeiou", "lmnrstvkd")))
        names[rng.choice(onsets) + middle + rng.choice(endings)] = None
    return tuple(names)


def _split(relation: Relation, subject: str) -> Split:
    if (relation, subject) == SHOWCASE:
        return "dev"
    commutes = {"sum": " + ", "product": " x "}.get(relation)
    key = commutes.join(sorted(subject.split(commutes))) if commutes else subject
    number = bucket(f"{relation}|{key}")
    for split, end in _HELD_ENDS:
        if number < end:
            return split
    return "train"
