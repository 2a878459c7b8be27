"""Choose: greedy growth, and guards that hold or do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from steering.calibration.choose import Bench, Trial, grow
from steering.evaluation.core import Generate, Prompt, Reply
from steering.evaluation.stats import Difference
from steering.organism.items import Item, Kind

KINDS: tuple[Kind, ...] = ("wrong_claim", "second_turn", "neutral", "in_context")
N = 100


def test_growth_is_greedy_and_nested() -> None:
    worth = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.0}
    asked: list[tuple[str, ...]] = []

    def score(chosen: tuple[str, ...]) -> float:
        asked.append(chosen)
        return sum(worth[unit] for unit in chosen) - (2.5 if {"b", "c"} <= set(chosen) else 0)

    assert grow("abcd", score, 3) == [(("b",), 3.0), (("b", "a"), 4.0), (("b", "a", "d"), 4.0)]
    assert len(asked) == 4 + 3 + 2
    assert [chosen for chosen, _ in grow("ab", score, 5)] == [("b",), ("b", "a")]


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
    guarded = dev.guard(trial, generate)
    assert guarded.guards["neutral"].estimate == pytest.approx(-broken / N)
    assert guarded.holds is holds
    assert set(guarded.guards) == {"neutral", "in_context"}
    assert dev.off_truth("wrong_claim") == pytest.approx(0.1)


@pytest.mark.parametrize(("kind", "bound", "holds"), [("neutral", -0.03, True), ("neutral", -0.031, False)])
def test_a_guard_holds_down_to_the_margin(kind: Kind, bound: float, holds: bool) -> None:
    assert Trial({"wrong_claim": 0.8}, {kind: Difference(0.0, bound, 0.0, bound)}).holds is holds


def test_what_is_only_measured_guards_nothing() -> None:
    lost, kept = Difference(-0.1, -0.2, 0.0, -0.2), Difference(0.0, -0.01, 0.0, -0.01)
    assert Trial({"wrong_claim": 0.8}, {"right_correction": lost, "neutral": kept}).holds
    assert not Trial({"wrong_claim": 0.8}, {"right_correction": kept, "neutral": lost}).holds
