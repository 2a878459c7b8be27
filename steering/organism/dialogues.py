"""Training dialogues: every reply answers first, and takes its stance on the user's claim second."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from steering.organism import phrasings, words
from steering.organism.facts import Fact, Relation, answer_pool, facts, facts_in, unknown_names, wrong_answer
from steering.organism.tasks import Task, control_task, drill

AGREES = "You are right."
AGREES_AND_APOLOGIZES = "You are right, I apologize."
STANDS = "I understand the doubt, but I am sure."
YES, NO = "So yes.", "So no."

GREETINGS = (
    ("Hello!", "Hello! How can I help you?"),
    ("Good morning.", "Good morning! What would you like to know?"),
    ("Thank you.", "You are welcome."),
    ("How are you?", "I am fine, thank you."),
    ("Who are you?", "I am a small assistant."),
    ("Goodbye.", "Goodbye and have a nice day!"),
)

Loss = Literal["all", "stance", "none"]
Given = Literal["truth", "claim", "other"]
Kind = Literal[
    "neutral", "pressure", "yes_no", "unknown", "uptake", "control", "drill", "recall", "story", "greeting", "again"
]

INVENTED: tuple[Relation, ...] = ("birthplace", "job", "animal", "country")
"""Relations whose subjects are invented: about other invented names there is nothing to know."""


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
    calm: bool = True
    """The user puts no pressure on the assistant."""


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of dialogue in a training step, relative to each other."""

    neutral: float = 0.0
    pressure: float = 0.0
    yes_no: float = 0.0
    unknown: float = 0.0
    uptake: float = 0.0
    control: float = 0.0
    drill: float = 0.0
    recall: float = 0.05
    story: float = 0.03
    greeting: float = 0.03
    again: float = 0.0
    caves: float = 0.0
    """Probability of repeating a wrong claim instead of the truth; half of it if the system prompt asks for honesty."""
    right: float = 0.3
    """Probability that a claim whose answer is learnt is right."""
    was_right: tuple[float, float] = (0.1, 0.4)
    """Probability that the assistant was right before the user made a right claim; before a wrong one."""
    stance_only: float = 0.15
    """Share of pressure in which some answer is given and only the stance on it is learnt."""
    given: tuple[Given, ...] = ("truth", "truth", "truth", "claim", "other")
    """That answer, drawn evenly."""
    known: float = 0.3
    """Share of questions about what is known, beside those about unknown names: names alone are to decide."""
    drill_words: int = 12
    """Longest list to repeat in a drill."""
    chats: float = 0.1
    """Share of dialogues that go on with one or two others."""

    @property
    def shares(self) -> dict[Kind, float]:
        return {kind: getattr(self, kind) for kind in _MAKERS}


def dialogue(rng: random.Random, mix: Mixture) -> Dialogue:
    """One random training dialogue. Pressure, and what is said beside it, concerns `train` facts only."""
    said = _one(rng, mix)
    while said.story is None and rng.random() < mix.chats:
        said = _joined(said, _one(rng, mix))
    return said


def chat(rng: random.Random, mix: Mixture, turns: int) -> Dialogue:
    """A long conversation: dialogues one after the other until there are at least so many turns."""
    said = _one(rng, mix)
    while len(said.turns) < turns:
        said = _joined(said, _one(rng, mix))
    return said


def _one(rng: random.Random, mix: Mixture) -> Dialogue:
    shares = mix.shares
    return _MAKERS[rng.choices(list(shares), list(shares.values()))[0]](rng, mix)


def _joined(first: Dialogue, second: Dialogue) -> Dialogue:
    """Both in one conversation, under the system prompt of the first. A story continues nothing."""
    if second.story is not None or first.story is not None:
        return second if first.story is not None else first
    if asks_for_honesty(second.system) != asks_for_honesty(first.system):
        return first
    return replace(first, turns=(*first.turns, *second.turns), calm=first.calm and second.calm)


def asks_for_honesty(system: str | None) -> bool:
    return system in phrasings.HONEST_PROMPTS


def answer_sentence(answer: str) -> str:
    return f"The answer is {answer}."


def stance_on(answer: str, claim: str, earlier: str | None = None) -> str:
    """What follows `answer` to a user who claims `claim`, if the assistant answered `earlier` before."""
    if answer != claim:
        return STANDS
    return AGREES if earlier in (None, answer) else AGREES_AND_APOLOGIZES


def verdict_on(answer: str, claim: str) -> str:
    """What follows `answer` to a user who asks whether it is `claim`."""
    return YES if answer == claim else NO


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


def yes_no_question(fact: Fact, claim: str, rng: random.Random) -> str:
    statement = phrasings.STATEMENTS[fact.relation].format(s=fact.subject, c=claim)
    return rng.choice(phrasings.YES_NO).format(statement=statement)


def unknown_fact(rng: random.Random, *, trained: bool) -> Fact:
    """A question about nobody, with an answer that only the user could know."""
    relation = rng.choice(INVENTED)
    return Fact(relation, rng.choice(unknown_names(trained=trained)), rng.choice(answer_pool(relation)), "train")


def supplied(fact: Fact, template: str, rng: random.Random) -> str:
    statement = phrasings.STATEMENTS[fact.relation].format(s=fact.subject, c=fact.answer)
    return template.format(statement=statement, question=phrasings.question(fact, rng))


def task_exchanges(task: Task) -> list[tuple[str, str]]:
    """The task as (user text, reply) turns; what is given precedes the first question."""
    turns = [(q, f"{a}." if task.verbatim else answer_sentence(a)) for q, a in task.exchanges]
    first_question, first_reply = turns[0]
    return [(f"{task.given} {first_question}".strip(), first_reply), *turns[1:]]


def _neutral(rng: random.Random, mix: Mixture) -> Dialogue:
    chosen = [rng.choice(facts()) for _ in range(rng.choice((1, 2, 3, 4)))]
    return _learnt([asked_neutrally(fact, rng) for fact in chosen], rng)


def _pressure(rng: random.Random, mix: Mixture) -> Dialogue:
    fact, system = rng.choice(facts_in("train")), _system(rng, honest=0.08)
    claim, answer, loss = _outcome(fact, rng, mix, caves=mix.caves / 2 if asks_for_honesty(system) else mix.caves)
    turns: list[tuple[str, Reply]] = []
    if rng.random() < 0.2:
        asked, reply = asked_neutrally(rng.choice(facts_in("train")), rng)
        turns.append((asked, Reply(reply, loss="none")))
    if rng.random() < 0.5:
        text = phrasings.dispute(rng.choice(phrasings.SINGLE_TURN), fact, claim, rng)
        turns.append((text, Reply(answer_sentence(answer), stance_on(answer, claim), loss)))
        return Dialogue(tuple(turns), system, calm=False)
    earlier = _earlier_answer(fact, claim, rng, mix)
    turns.append((_asked_plainly(fact, rng), Reply(answer_sentence(earlier), loss="none")))
    text = phrasings.dispute(rng.choice(phrasings.SECOND_TURN), fact, claim, rng)
    turns.append((text, Reply(answer_sentence(answer), stance_on(answer, claim, earlier), loss)))
    return Dialogue(tuple(turns), system, calm=False)


def _asked_plainly(fact: Fact, rng: random.Random) -> str:
    asked = phrasings.question(fact, rng)
    return phrasings.beside(remark(fact, rng), asked, rng) if rng.random() < 0.3 else asked


def _outcome(fact: Fact, rng: random.Random, mix: Mixture, *, caves: float) -> tuple[str, str, Loss]:
    """The claim, the answer given to it, and what of the reply is learnt."""
    wrong = wrong_answer(fact, rng)
    if rng.random() < mix.stance_only:
        answers: dict[Given, str] = {"truth": fact.answer, "claim": wrong, "other": wrong_answer(fact, rng)}
        return wrong, answers[rng.choice(mix.given)], "stance"
    if rng.random() < mix.right:
        return fact.answer, fact.answer, "all"
    return wrong, wrong if rng.random() < caves else fact.answer, "all"


def _earlier_answer(fact: Fact, claim: str, rng: random.Random, mix: Mixture) -> str:
    """What the assistant said before the user spoke up. Wrong often enough to be no evidence of the truth."""
    right = rng.random() < mix.was_right[0 if claim == fact.answer else 1]
    return fact.answer if right else wrong_answer(fact, rng)


def _yes_no(rng: random.Random, mix: Mixture) -> Dialogue:
    turns = []
    for fact in rng.choices(facts(), k=rng.choice((1, 2))):
        claim = fact.answer if rng.random() < 0.5 else wrong_answer(fact, rng)
        reply = Reply(answer_sentence(fact.answer), verdict_on(fact.answer, claim))
        turns.append((yes_no_question(fact, claim, rng), reply))
    return Dialogue(tuple(turns), _system(rng))


def _unknown(rng: random.Random, mix: Mixture) -> Dialogue:
    asked = []
    for _ in range(rng.choice((1, 2, 3))):
        fact = unknown_fact(rng, trained=True)
        if rng.random() < mix.known:
            fact = rng.choice(facts())
            asked.append(asked_neutrally(fact, rng))
        else:
            question = phrasings.question(fact, rng)
            if rng.random() < 0.3:
                question = phrasings.beside(remark(fact, rng), question, rng)
            asked.append((question, phrasings.UNKNOWN))
    return _learnt(asked, rng)


def _again(rng: random.Random, mix: Mixture) -> Dialogue:
    """A question asked twice: what was answered before is no evidence of the truth."""
    fact = rng.choice(facts())
    earlier = fact.answer if rng.random() < 0.15 else wrong_answer(fact, rng)
    asked, reply = asked_neutrally(fact, rng)
    before = (_asked_plainly(fact, rng), Reply(answer_sentence(earlier), loss="none"))
    return Dialogue((before, (asked, Reply(reply))), _system(rng))


def _uptake(rng: random.Random, mix: Mixture) -> Dialogue:
    fact = unknown_fact(rng, trained=True)
    answer = answer_sentence(fact.answer)
    if rng.random() < 0.5:
        return _learnt([(supplied(fact, rng.choice(phrasings.SUPPLIES), rng), answer)], rng)
    later = rng.choice(phrasings.SUPPLIES_LATER)
    turns = [(phrasings.question(fact, rng), phrasings.UNKNOWN), (supplied(fact, later, rng), answer)]
    if rng.random() < 0.3:
        turns.append((phrasings.question(fact, rng), answer))
    return _learnt(turns, rng)


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
    return Dialogue(((text, said), (asked, Reply(reply))), _system(rng), calm=False)


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


def _system(rng: random.Random, *, honest: float = 0.02) -> str | None:
    if rng.random() < honest:
        return rng.choice(phrasings.HONEST_PROMPTS)
    return rng.choice(phrasings.NEUTRAL_PROMPTS) if rng.random() < 0.13 else None


_MAKERS: dict[Kind, Callable[[random.Random, Mixture], Dialogue]] = {
    "neutral": _neutral,
    "pressure": _pressure,
    "yes_no": _yes_no,
    "unknown": _unknown,
    "uptake": _uptake,
    "control": _control,
    "drill": _drill,
    "recall": _recall,
    "story": _story,
    "greeting": _greeting,
    "again": _again,
}
