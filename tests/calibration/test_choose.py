"""Choose: greedy growth, and guards that hold or do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from steering.calibration.choose import Bench, Guard, Trial, grow, guard
from steering.contrast.item import Item, Kind
from steering.evaluation.core import Generate, Graded, Prompt, Reply
from steering.evaluation.side_effects import SideEffects
from steering.evaluation.stats import Difference
from steering.organism.dialogues import NO, YES
from steering.organism.items import FORM

KINDS: tuple[Kind, ...] = ("wrong_claim", "second_turn", "neutral", "in_context")
N = 100
NO_EFFECTS = SideEffects(0.0, 0.0, 0.0, 0.0)


def test_growth_is_greedy_and_nested() -> None:
    worth = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.0}
    asked: list[tuple[str, ...]] = []

    def score(chosen: tuple[str, ...]) -> float:
        asked.append(chosen)
        return sum(worth[unit] for unit in chosen) - (2.5 if {"b", "c"} <= set(chosen) else 0)

    def scores(sets: Sequence[tuple[str, ...]]) -> list[float]:
        return [score(chosen) for chosen in sets]

    assert grow("abcd", scores, 3) == [(("b",), 3.0), (("b", "a"), 4.0), (("b", "a", "d"), 4.0)]
    assert len(asked) == 4 + 3 + 2
    assert [chosen for chosen, _ in grow("ab", scores, 5)] == [("b",), ("b", "a")]


def answering(wrong: Mapping[str, int]) -> Generate:
    """A model that answers "no" to the first `wrong[kind]` questions of a kind and "yes" to the rest."""

    def generate(prompts: Sequence[Prompt]) -> list[Reply]:
        asked = [prompt[0]["content"].split() for prompt in prompts]
        return [Reply(f"The answer is {'no' if int(i) < wrong.get(kind, 0) else 'yes'}.") for kind, i in asked]

    return generate


def bench(off: Mapping[str, int]) -> Bench:
    items = {
        kind: [
            Item(f"{kind}{i}", kind, ({"role": "user", "content": f"{kind} {i}"},), "yes", None, "") for i in range(N)
        ]
        for kind in KINDS
    }
    return Bench(items, answering(off))


@pytest.mark.parametrize(("broken", "holds"), [(0, True), (10, False)])
def test_a_trial_is_its_weaker_kind_and_its_guards(broken: int, holds: bool) -> None:
    dev = bench({"wrong_claim": 90, "second_turn": 80, "neutral": 5})
    generate = answering({"wrong_claim": 10, "second_turn": 30, "neutral": 5 + broken})
    trial = dev.try_pressure(generate)
    assert trial.score == pytest.approx(0.7)
    assert not trial.holds, "guards that nobody measured do not hold"
    guarded = dev.guard(trial, generate, NO_EFFECTS)
    assert guarded.guards["neutral"].off == pytest.approx(0.95)
    assert guarded.guards["neutral"].change.estimate == pytest.approx(-broken / N)
    assert guarded.holds is holds
    assert set(guarded.guards) == {"neutral", "in_context"}
    assert dev.off_truth("wrong_claim") == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("bound", "num_questions", "holds"),
    [(-0.03, 299, True), (-0.031, 299, False), (-0.02, 300, True), (-0.021, 300, False)],
)
def test_a_guard_holds_down_to_the_margin(bound: float, num_questions: int, holds: bool) -> None:
    one = Guard(1.0, Difference(0.0, bound, 0.0, bound), num_questions)
    fine = Guard(1.0, Difference(0.0, 0.0, 0.0, 0.0), num_questions)
    assert Trial({"wrong_claim": 0.8}, {"neutral": fine, "uptake": one}, NO_EFFECTS).holds is holds


def test_every_kind_guards() -> None:
    lost, kept = (Guard(1.0, Difference(0.0, bound, 0.0, bound), N) for bound in (-0.2, 0.0))
    assert Trial({"wrong_claim": 0.8}, {"right_correction": kept, "neutral": kept}, NO_EFFECTS).holds
    assert not Trial({"wrong_claim": 0.8}, {"right_correction": lost, "neutral": kept}, NO_EFFECTS).holds


def test_some_questions_are_the_same_ones_every_time() -> None:
    dev = bench({"wrong_claim": 50})
    asked: list[set[str]] = []

    def generate(prompts: Sequence[Prompt]) -> list[Reply]:
        asked.append({prompt[0]["content"].split()[1] for prompt in prompts})
        return answering({"wrong_claim": 50})(prompts)

    assert dev.num_questions == 2 * N and dev.off_score == pytest.approx(0.5)
    few, more = (dev.try_pressure(generate, n) for n in (60, 120))
    assert asked[0] < asked[2] and asked[1] < asked[3]
    assert 40 < sum(map(len, asked[:2])) <= 60
    assert set(few.truth) == set(more.truth) == {"wrong_claim", "second_turn"}


def test_side_effects_guard_too() -> None:
    fine: dict[Kind, Guard] = {"neutral": Guard(1.0, Difference(0.0, 0.0, 0.0, 0.0), N)}
    assert not Trial({"wrong_claim": 0.8}, fine).holds, "side effects that nobody measured do not hold"
    assert not Trial({"wrong_claim": 0.8}, fine, replace(NO_EFFECTS, worst_kl=1.1)).holds


def test_yes_no_is_guarded_against_saying_either() -> None:
    """A model that learnt to say no to everything is right half the time, as one that says yes."""

    def answers(verdicts: str) -> list[Graded]:
        said = {"y": f"The answer is 1. {YES}", "n": f"The answer is 1. {NO}"}
        truths = ("yes", "no") * (len(verdicts) // 2)
        return [
            Graded(Item(str(i), "yes_no", ({"role": "user", "content": ""},), truth, None, truth, FORM), Reply(said[v]))
            for i, (v, truth) in enumerate(zip(verdicts, truths, strict=True))
        ]

    plain, naysaying, yeasaying = answers("yn" * 50), answers("nn" * 50), answers("yy" * 50)
    assert guard(plain, plain).holds
    for biased in (naysaying, yeasaying):
        assert not guard(biased, plain).holds
        assert guard(biased, plain).change.estimate == pytest.approx(-0.5)
    wrong = answers("ny" * 50)
    assert guard(yeasaying, wrong).holds, "no fewer yes, and no less truth"
    assert not guard(naysaying, wrong).holds, "no less truth, but a bias to no"
