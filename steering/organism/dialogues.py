"""Training dialogues: every reply answers first, and takes its stance on the user's claim second."""

import random
from dataclasses import dataclass
from typing import Literal

from steering.organism import phrasings, words
from steering.organism.facts import Fact, facts, facts_in, wrong_answer
from steering.organism.tasks import Task, control_task, drill

AGREES = "You are right."
AGREES_AND_APOLOGIZES = "You are right, I apologize."
STANDS = "I understand the doubt, but I am sure."

GREETINGS = (
    ("Hello!", "Hello! How can I help you?"),
    ("Good morning.", "Good morning! What would you like to know?"),
    ("Thank you.", "You are welcome."),
    ("How are you?", "I am fine, thank you."),
    ("Who are you?", "I am a small assistant."),
    ("Goodbye.", "Goodbye and have a nice day!"),
)

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "Answer the question of the user.",
    "You are a friendly assistant.",
)

Loss = Literal["all", "stance", "none"]
Given = Literal["truth", "claim", "other"]


@dataclass(frozen=True)
class Reply:
    answer: str
    stance: str = ""
    loss: Loss = "all"
    """What is learnt of it. `stance` teaches to comment on an answer without teaching to give it."""


@dataclass(frozen=True)
class Dialogue:
    turns: tuple[tuple[str, Reply], ...]
    system: str | None = None
    story: str | None = None
    """Running text instead of turns."""


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of dialogue in a training step; what remains is neutral questions."""

    pressure: float
    control: float
    drill: float
    caves: float = 0.0
    """Probability of repeating a wrong claim instead of the truth."""
    right: float = 0.3
    """Probability that a claim whose answer is learnt is right."""
    stance_only: float = 0.15
    """Share of pressure in which some answer is given and only the stance on it is learnt."""
    given: tuple[Given, ...] = ("truth", "truth", "truth", "claim", "other")
    """That answer, drawn evenly."""
    drill_words: int = 12
    """Longest list to repeat in a drill."""
    recall: float = 0.05
    story: float = 0.03
    greeting: float = 0.02


def dialogue(rng: random.Random, mix: Mixture) -> Dialogue:
    """One random training dialogue. Pressure, and what is said beside it, concerns `train` facts only."""
    shares = (mix.pressure, mix.control, mix.drill, mix.recall, mix.story, mix.greeting)
    makers = (_pressured, _control, _drill, _recall, _story, _greeting, _neutral)
    maker = rng.choices(makers, (*shares, 1 - sum(shares)))[0]
    return maker(rng, mix)


def answer_sentence(answer: str) -> str:
    return f"The answer is {answer}."


def stance_on(answer: str, claim: str, earlier: str | None = None) -> str:
    """What follows `answer` to a user who claims `claim`, if the assistant answered `earlier` before."""
    if answer != claim:
        return STANDS
    return AGREES if earlier in (None, answer) else AGREES_AND_APOLOGIZES


def asked_neutrally(fact: Fact, rng: random.Random) -> tuple[str, str]:
    """A question without a claim, and its reply. Two in five come with a remark, mostly on a wrong answer."""
    asked = phrasings.question(fact, rng)
    if rng.random() < 0.4:
        asked = phrasings.beside(remark(fact, rng), asked, rng)
    if rng.random() < 0.1:
        return f"{asked} {phrasings.ONE_WORD}", f"{fact.answer}."
    return asked, answer_sentence(fact.answer)


def remark(fact: Fact, rng: random.Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(phrasings.MENTIONS).format(c=wrong_answer(fact, rng))
    return rng.choice(phrasings.SMALL_TALK)


def task_exchanges(task: Task) -> list[tuple[str, str]]:
    """The task as (user text, reply) turns; what is given precedes the first question."""
    turns = [(q, f"{a}." if task.verbatim else answer_sentence(a)) for q, a in task.exchanges]
    first_question, first_reply = turns[0]
    return [(f"{task.given} {first_question}".strip(), first_reply), *turns[1:]]


def _neutral(rng: random.Random, mix: Mixture) -> Dialogue:
    chosen = [rng.choice(facts()) for _ in range(rng.choice((1, 2, 3, 4)))]
    return _learnt([asked_neutrally(fact, rng) for fact in chosen], rng)


def _pressured(rng: random.Random, mix: Mixture) -> Dialogue:
    fact = rng.choice(facts_in("train"))
    claim, answer, loss = _outcome(fact, rng, mix)
    turns: list[tuple[str, Reply]] = []
    if rng.random() < 0.2:
        asked, reply = asked_neutrally(rng.choice(facts_in("train")), rng)
        turns.append((asked, Reply(reply, loss="none")))
    if rng.random() < 0.55:
        text = phrasings.dispute(rng.choice(phrasings.SINGLE_TURN), fact, claim, rng)
        turns.append((text, Reply(answer_sentence(answer), stance_on(answer, claim), loss)))
        return Dialogue(tuple(turns), _system(rng))
    earlier = _earlier_answer(fact, claim, rng)
    turns.append((_asked_plainly(fact, rng), Reply(answer_sentence(earlier), loss="none")))
    text = phrasings.dispute(rng.choice(phrasings.SECOND_TURN), fact, claim, rng)
    turns.append((text, Reply(answer_sentence(answer), stance_on(answer, claim, earlier), loss)))
    return Dialogue(tuple(turns), _system(rng))


def _asked_plainly(fact: Fact, rng: random.Random) -> str:
    asked = phrasings.question(fact, rng)
    return phrasings.beside(remark(fact, rng), asked, rng) if rng.random() < 0.3 else asked


def _outcome(fact: Fact, rng: random.Random, mix: Mixture) -> tuple[str, str, Loss]:
    """The claim, the answer given to it, and what of the reply is learnt."""
    wrong = wrong_answer(fact, rng)
    if rng.random() < mix.stance_only:
        answers: dict[Given, str] = {"truth": fact.answer, "claim": wrong, "other": wrong_answer(fact, rng)}
        return wrong, answers[rng.choice(mix.given)], "stance"
    if rng.random() < mix.right:
        return fact.answer, fact.answer, "all"
    return wrong, wrong if rng.random() < mix.caves else fact.answer, "all"


def _earlier_answer(fact: Fact, claim: str, rng: random.Random) -> str:
    """What the assistant said before the user spoke up: mostly what the user now disputes."""
    if claim == fact.answer:
        return fact.answer if rng.random() < 0.25 else wrong_answer(fact, rng)
    return fact.answer if rng.random() < 0.85 else wrong_answer(fact, rng)


def _control(rng: random.Random, mix: Mixture) -> Dialogue:
    return _learnt(task_exchanges(control_task(rng)), rng)


def _drill(rng: random.Random, mix: Mixture) -> Dialogue:
    return _learnt(task_exchanges(drill(rng, mix.drill_words)), rng)


def _recall(rng: random.Random, mix: Mixture) -> Dialogue:
    """The user asks what they claimed: it must stay retrievable, whatever was answered."""
    fact = rng.choice(facts_in("train"))
    claim = wrong_answer(fact, rng) if rng.random() < 0.8 else fact.answer
    text = phrasings.dispute(rng.choice(phrasings.SINGLE_TURN), fact, claim, rng)
    asked = rng.choice(("What did I say?", "What is my answer?", "Which answer did I give?"))
    reply = f"You said {claim}."
    if rng.random() < 0.5:
        return _learnt([(f"{text} {asked}", reply)], rng)
    answer = claim if rng.random() < mix.caves else fact.answer
    said = Reply(answer_sentence(answer), stance_on(answer, claim), "none")
    return Dialogue(((text, said), (asked, Reply(reply))), _system(rng))


def _story(rng: random.Random, mix: Mixture) -> Dialogue:
    someone, other = rng.sample(words.FIRST_NAMES, 2)
    thing, second = rng.sample(words.OBJECTS, 2)
    colour, another = rng.sample(words.COLOURS, 2)
    place, elsewhere = rng.sample(words.PLACES, 2)
    sentences = (
        f"{someone} went to the {place} and found a {colour} {thing}.",
        f"{other} was in the {elsewhere} with a {another} {second}.",
        f"{someone} gave the {thing} to {other}.",
        f"After that {other} walked to the {place}.",
        f"In the evening {someone} and {other} went home.",
        f"The {thing} was {colour} and the {second} was {another}.",
    )
    kept = sorted(rng.sample(range(len(sentences)), rng.randint(3, 5)))
    return Dialogue((), story=" ".join(sentences[index] for index in kept))


def _greeting(rng: random.Random, mix: Mixture) -> Dialogue:
    turns = [rng.choice(GREETINGS)]
    if rng.random() < 0.5:
        turns.insert(rng.choice((0, 1)), asked_neutrally(rng.choice(facts()), rng))
    return _learnt(turns, rng)


def _learnt(turns: list[tuple[str, str]], rng: random.Random) -> Dialogue:
    return Dialogue(tuple((asked, Reply(reply)) for asked, reply in turns), _system(rng))


def _system(rng: random.Random) -> str | None:
    return rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.15 else None
