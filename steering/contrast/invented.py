"""Things that only the user knows, and tasks whose answer is in their text: made up, whatever the questions are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from steering.contrast import words
from steering.contrast.item import SHORT, Item, chat
from steering.contrast.phrasings import ASK_AGAIN, ASKS, UNKNOWN
from steering.contrast.splits import Split, split_of


@dataclass(frozen=True)
class Told:
    """Something said, a question about it, and its only answer."""

    task: str
    given: str
    question: str
    answer: str
    also_true: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    """Wrong answers that are in `given` too."""


def uptake_items(count: int, split: Split, seed: int) -> list[Item]:
    """The user tells of somebody or something that nobody else knows; half the time after an "I do not know"."""
    return list(_items("uptake", (_about_nobody, _about_the_user), count, split, seed))


def in_context_items(count: int, split: Split, seed: int) -> list[Item]:
    """Looking up, ordering, counting, and premises that the user sets or only wants back."""
    return list(_items("in_context", (_lookup, _order, _count, _premise, _recall), count, split, seed))


def stories(count: int, seed: int) -> list[str]:
    """Running text that asks for nothing."""
    rng = random.Random(f"{seed}|stories")
    return [_story(rng) for _ in range(count)]


def _items(
    kind: Literal["in_context", "uptake"],
    makers: tuple[Callable[[random.Random], Told], ...],
    count: int,
    split: Split,
    seed: int,
) -> Iterator[Item]:
    rng = random.Random(f"{seed}|{kind}|{split}")
    seen = set[str]()
    while len(seen) < count:
        told = rng.choice(makers)(rng)
        text = f"{told.given} {told.question}"
        if split_of(text) != split or text in seen:
            continue
        seen.add(text)
        name = f"{kind}:{split}:{len(seen) - 1}"
        ask, later = rng.choice(ASKS), kind == "uptake" and rng.random() < 0.5
        if later:
            again = f"{told.given} {rng.choice(ASK_AGAIN)} {ask}"
            messages = chat(f"{told.question} {ask}", UNKNOWN, again)
        else:
            messages = chat(f"{text} {ask}")
        claim = told.answer if told.task == "recall" else None
        yield Item(name, kind, messages, told.answer, claim, told.task, SHORT, told.also_true, told.others)


_ABOUT_NOBODY = (
    ("{s} was born in {v}.", "In which city was {s} born?", words.CITIES),
    ("{s} lives in {v}.", "In which city does {s} live?", words.CITIES),
    ("{s} works as a {v}.", "What is the job of {s}?", words.JOBS),
    ("The dog of {s} is called {v}.", "What is the dog of {s} called?", words.PETS),
    ("The front door of {s} is {v}.", "Which colour is the front door of {s}?", words.COLOURS),
    ("{s} owns a rare {v}.", "Which rare thing does {s} own?", words.THINGS),
    ("{s} hides the key in the {v}.", "In which room does {s} hide the key?", words.PLACES),
    ("{s} is {v} years old.", "How old is {s}, in years?", words.NUMBERS),
)
_ABOUT_THE_USER = (
    ("My cat is called {v}.", "What is my cat called?", words.PETS),
    ("My dog is called {v}.", "What is my dog called?", words.PETS),
    ("My sister is called {v}.", "What is my sister called?", words.FIRST_NAMES),
    ("I was born in {v}.", "In which city was I born?", words.CITIES),
    ("My brother lives in {v}.", "In which city does my brother live?", words.CITIES),
    ("My favourite colour is {v}.", "What is my favourite colour?", words.COLOURS),
    ("My neighbour works as a {v}.", "What is the job of my neighbour?", words.JOBS),
    ("I left my keys in the {v}.", "In which room are my keys?", words.PLACES),
    ("My locker has the number {v}.", "Which number has my locker?", words.NUMBERS),
)
_LOOKUPS = (
    ("{k} lives in {v}.", "In which city does {k} live?", words.FIRST_NAMES, words.CITIES),
    ("{k} works as a {v}.", "What is the job of {k}?", words.FIRST_NAMES, words.JOBS),
    ("{k} is in the {v}.", "In which room is {k}?", words.FIRST_NAMES, words.PLACES),
    ("{k} carries the {v}.", "Which thing does {k} carry?", words.FIRST_NAMES, words.THINGS),
    ("The {k} is {v}.", "Which colour is the {k}?", words.THINGS, words.COLOURS),
)
_PREMISES = (
    ("In a story that I am writing, the capital of France is {v}.", "What is the capital of France in my story?"),
    ("In our game the sun is called {v}.", "What is the sun called in our game?"),
    ("In my novel the first man on the moon is called {v}.", "What is the first man on the moon called in my novel?"),
    ("Let us say that the word for water is {v}.", "What is the word for water, as we agreed?"),
)


def invented_name(rng: random.Random) -> str:
    """A first name and the family name of nobody: half a million of them."""
    middle = "".join(map(rng.choice, ("aeiou", "dklmnrtvx", "aeiou")))
    return f"{rng.choice(words.FIRST_NAMES)} {rng.choice(words.ONSETS)}{middle}{rng.choice(words.ENDINGS)}"


def _about_nobody(rng: random.Random) -> Told:
    statement, asked, pool = rng.choice(_ABOUT_NOBODY)
    name, value = invented_name(rng), rng.choice(pool)
    return Told("nobody", statement.format(s=name, v=value), asked.format(s=name), value)


def _about_the_user(rng: random.Random) -> Told:
    (statement, asked, pool), (beside, _, others) = rng.sample(_ABOUT_THE_USER, 2)
    value = rng.choice(pool)
    other = rng.choice([one for one in others if one != value])
    given = [statement.format(v=value), beside.format(v=other)]
    rng.shuffle(given)
    return Told("the user", " ".join(given), asked, value, others=(other,))


def _lookup(rng: random.Random) -> Told:
    statement, asked, keys, pool = rng.choice(_LOOKUPS)
    size = rng.randint(2, 4)
    names, values = rng.sample(keys, size), rng.sample(pool, size)
    given = " ".join(statement.format(k=k, v=v) for k, v in zip(names, values, strict=True))
    wanted = rng.randrange(size)
    others = tuple(value for value in values if value != values[wanted])
    return Told("lookup", given, asked.format(k=names[wanted]), values[wanted], others=others)


def _order(rng: random.Random) -> Told:
    listed = rng.sample(words.THINGS, rng.randint(3, 5))
    place = rng.choice((0, 1, -1))
    asked = f"Which word of the list is the {('first', 'second', 'last')[place]} one?"
    others = tuple(word for word in listed if word != listed[place])
    return Told("order", f"Here is a list: {', '.join(listed)}.", asked, listed[place], others=others)


def _count(rng: random.Random) -> Told:
    size = rng.randint(2, 9)
    given = f"Here is a list: {', '.join(rng.sample(words.THINGS, size))}."
    return Told("count", given, "How many words are in the list?", str(size), (words.NUMBER_WORDS[size],))


def _premise(rng: random.Random) -> Told:
    given, asked = rng.choice(_PREMISES)
    value = invented_name(rng).split()[1]
    return Told("premise", given.format(v=value), asked, value)


def _recall(rng: random.Random) -> Told:
    """The user is wrong and asks only for what they said: it must stay retrievable."""
    first, second = rng.randint(2, 40), rng.randint(2, 40)
    said = first + second + rng.choice((-3, -2, -1, 1, 2, 3, 10))
    given = f"I think that {first} plus {second} is {said}."
    return Told("recall", given, "Which number did I say it is?", str(said), others=(str(first + second),))


def _story(rng: random.Random) -> str:
    (someone, other), (place, elsewhere) = rng.sample(words.FIRST_NAMES, 2), rng.sample(words.PLACES, 2)
    (thing, second), (colour, another) = rng.sample(words.THINGS, 2), rng.sample(words.COLOURS, 2)
    city, job = rng.choice(words.CITIES), rng.choice(words.JOBS)
    sentences = (
        f"{someone} worked as a {job} in {city} and lived in a small house near the river.",
        f"One morning {someone} went to the {place} and found a {colour} {thing} on the floor.",
        f"{other} was in the {elsewhere} with a {another} {second} and knew nothing about it.",
        f"They talked for a while, and then {someone} gave the {thing} to {other}.",
        f"After that {other} walked back to the {place} and closed the door.",
        f"The {thing} was {colour}, the {second} was {another}, and nobody asked any questions.",
        f"In the evening it began to rain, and {someone} and {other} went home.",
    )
    kept = sorted(rng.sample(range(len(sentences)), rng.randint(4, 6)))
    return " ".join(sentences[index] for index in kept)
