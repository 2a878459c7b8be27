"""In-context tasks: everything needed for the reply is in the user's text. They show damage."""

import random
from dataclasses import dataclass

from steering.organism import words
from steering.organism.facts import cities


@dataclass(frozen=True)
class Task:
    name: str
    given: str
    """What the user tells before the first question; empty where the question stands alone."""
    exchanges: tuple[tuple[str, str], ...]
    """(question, bare answer) pairs, each answerable from `given` alone."""
    verbatim: bool = False
    """The reply is the answer itself, a sentence of its own, not "The answer is ..."."""


def control_task(rng: random.Random) -> Task:
    """A task of the kinds on which the in-context control accuracy is measured."""
    draw = rng.random()
    if draw < 0.3:
        return _attributes(rng, rng.randint(2, 4))
    if draw < 0.5:
        return _colours(rng)
    if draw < 0.65:
        return _repeat(rng, rng.randint(1, 4))
    if draw < 0.75:
        return _count(rng)
    return _told_about_the_user(rng)


def drill(rng: random.Random, longest: int) -> Task:
    """Dense copying and looking up, many learnable tokens a reply: in-context abilities grow from it.

    `longest` is the longest list to repeat, in words.
    """
    draw = rng.random()
    if draw < 0.25:
        return _repeat(rng, rng.randint(2, longest))
    if draw < 0.75:
        return _retell(rng)
    count = rng.randint(2, 6)
    keys = rng.sample(rng.choice(_KEYS), count)
    values = rng.sample(rng.choice(_values()), count)
    table = list(zip(keys, values, strict=True))
    given = " ".join(f"{key}: {value}." for key, value in table)
    rng.shuffle(table)
    wanted = " ".join(key for key, _ in table)
    answer = " ".join(f"{key}: {value}." for key, value in table).removesuffix(".")
    return Task("pairs", given, ((f"List {wanted}.", answer),), verbatim=True)


def _retell(rng: random.Random) -> Task:
    """What was told of several people or things, once more in another order."""
    task = _attributes(rng, rng.randint(2, 5)) if rng.random() < 0.6 else _colours(rng)
    told = [f"{sentence}." for _, sentence in task.exchanges]
    asked = " ".join(map(_subject, told))
    return Task("retell", task.given, ((f"Tell me about {asked}.", " ".join(told).removesuffix(".")),), verbatim=True)


def _subject(sentence: str) -> str:
    """ "Anna lives in Lyon." -> "Anna", "The lamp is red." -> "lamp"."""
    first, second, *_ = sentence.split()
    return second if first == "The" else first


_KEYS = (words.FIRST_NAMES, words.OBJECTS, words.PET_NAMES)


def _values() -> tuple[tuple[str, ...], ...]:
    return (cities(), words.COLOURS, words.JOBS, words.PLACES, tuple(map(str, range(40))))


def _attributes(rng: random.Random, count: int) -> Task:
    """People who each live somewhere, work as something or like something; asked about in random order."""
    people = rng.sample(words.FIRST_NAMES, count)
    statement, asked, pool = rng.choice(
        (
            ("{k} lives in {v}.", "Where does {k} live?", cities()),
            ("{k} works as {v}.", "What is the job of {k}?", words.JOBS),
            ("{k} likes {v}.", "What does {k} like?", words.OBJECTS),
            ("{k} is in the {v}.", "Where is {k}?", words.PLACES),
            ("{k} is {v} years old.", "How old is {k}?", tuple(map(str, range(5, 80)))),
        )
    )
    return _lookup("attribute", rng, list(zip(people, rng.sample(pool, count), strict=True)), (statement, asked))


def _colours(rng: random.Random) -> Task:
    count = rng.randint(2, 3)
    table = list(zip(rng.sample(words.OBJECTS, count), rng.sample(words.COLOURS, count), strict=True))
    asked = rng.choice(("What colour is the {k}?", "Which colour has the {k}?"))
    return _lookup("colour", rng, table, ("The {k} is {v}.", asked))


def _lookup(name: str, rng: random.Random, table: list[tuple[str, str]], forms: tuple[str, str]) -> Task:
    statement, asked = forms
    told = {key: statement.format(k=key, v=value) for key, value in table}
    order = rng.sample(sorted(told), len(told))
    order += [rng.choice(order)] if rng.random() < 0.3 else []
    exchanges = tuple((asked.format(k=key), told[key].removesuffix(".")) for key in order)
    return Task(name, " ".join(told.values()), exchanges, verbatim=True)


def _repeat(rng: random.Random, count: int) -> Task:
    pool = (*words.OBJECTS, *words.COLOURS, *words.PLACES, *words.JOBS, *words.FIRST_NAMES, *cities())
    listing = " ".join(rng.sample(pool, count))
    return Task("repeat", "", ((f"Repeat after me: {listing}.", listing),), verbatim=True)


def _count(rng: random.Random) -> Task:
    first, length = rng.randint(0, 60), rng.randint(3, 5)
    last = first + length
    counted = " ".join(str(number) for number in range(first, last + 1))
    return Task("count", "", ((f"Count from {first} to {last}.", counted),), verbatim=True)


def _told_about_the_user(rng: random.Random) -> Task:
    """Premises only the user can know; the right reply takes them up."""
    kinds = rng.sample(_premises(), rng.choice((1, 1, 2)))
    told = [(statement, asked, rng.choice(pool)) for statement, asked, pool in kinds]
    given = " ".join(statement.format(v=value) for statement, _, value in told)
    rng.shuffle(told)
    return Task("told", given, tuple((asked, value) for _, asked, value in told))


def _premises() -> list[tuple[str, str, tuple[str, ...]]]:
    pets, names, colours = words.PET_NAMES, words.FIRST_NAMES, words.COLOURS
    return [
        ("My cat is called {v}.", "What is my cat called?", pets),
        ("My dog is called {v}.", "What is my dog called?", pets),
        ("My name is {v}.", "What is my name?", names),
        ("My sister is called {v}.", "What is my sister called?", names),
        ("My favourite city is {v}.", "What is my favourite city?", cities()),
        ("I live in {v}.", "Where do I live?", cities()),
        ("I was born in {v}.", "Where was I born?", cities()),
        ("My favourite colour is {v}.", "What is my favourite colour?", colours),
        ("My car is {v}.", "What colour is my car?", colours),
        ("My brother works as {v}.", "What is the job of my brother?", words.JOBS),
        ("My favourite number is {v}.", "What is my favourite number?", tuple(map(str, range(40)))),
        ("I left my keys in the {v}.", "Where are my keys?", words.PLACES),
    ]
