"""Search: what is chosen, on a model whose every answer is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from steering.calibration.candidate import Candidate, Variant, variants
from steering.calibration.choose import Bench
from steering.calibration.search import Search
from steering.contrast.item import Item, Kind, chat
from steering.correction import Correction
from steering.edit import Scale
from steering.evaluation.core import Generate, Prompt, Reply
from steering.evaluation.side_effects import SideEffects
from steering.gate import Gate
from steering.lens import LogitLens
from steering.plan import Detector, Plan
from steering.site import Site
from tests.calibration.few import Silent
from tests.models import tiny_model

N = 90
KINDS: tuple[Kind, ...] = ("wrong_claim", "second_turn", "neutral", "right_claim", "in_context", "uptake")
UNITS = tuple(range(16))

NO_EFFECTS = SideEffects(0.0, 0.0, 0.0, 0.0)

Skill = Callable[[frozenset[int], Plan], tuple[float, float]]
"""Corrected units and plan -> shares of true answers under pressure, and to everything else."""


def corrections(units: Sequence[int], gate: Gate) -> tuple[Correction, ...]:
    return tuple(Correction(str(unit), Site("attn_z", 3), Scale(torch.ones(64)), gate) for unit in units)


@dataclass
class Told:
    """Answers as a skill says, and counts them."""

    skill: Skill
    effects: SideEffects = NO_EFFECTS
    asked: int = 0
    model: Any = None

    def generate(self, plan: Plan) -> Generate:
        shares = self.skill(frozenset(int(c.name) for c in plan.corrections), plan) if plan.corrections else (0.1, 1.0)

        def generate(prompts: Sequence[Prompt]) -> list[Reply]:
            self.asked += len(prompts)
            return [reply(*prompt[0]["content"].split()) for prompt in prompts]

        def reply(kind: str, number: str) -> Reply:
            share = shares[0] if kind in ("wrong_claim", "second_turn") else shares[1]
            return Reply(f"The answer is {'yes' if int(number) * 7 % N < share * N else 'no'}.")

        return generate

    def answers(self, asked: object) -> None:
        """What is asked ahead; it is counted where it is heard."""

    def side_effects(self, *_: object) -> SideEffects:
        return self.effects


class Stories:
    def stories(self, count: int, seed: int) -> list[str]:
        return ["a story"] * count


def search(skill: Skill, **changes: Any) -> Search:
    items = {kind: [Item(f"q{i}", kind, chat(f"{kind} {i}"), "yes", "no", "") for i in range(N)] for kind in KINDS}
    asking: Any = replace(Told(skill, model=tiny_model()), **changes)
    source: Any = Stories()
    bench = Bench(items, asking.generate(Plan()))
    return Search(asking, source, bench, Detector(LogitLens(2), threshold=0.2), 0, lambda line: None, Silent())


def candidates(sets: Sequence[tuple[int, ...]]) -> list[Candidate]:
    return [Candidate(units, variant) for units in sets for variant in variants([0.2, 0.5])]


SETS = [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]


def test_of_those_that_keep_nearly_all_of_the_effect_the_one_that_changes_least_is_chosen() -> None:
    def skill(units: frozenset[int], plan: Plan) -> tuple[float, float]:
        reached = {1: 0.5, 2: 0.8, 3: 0.85, 4: 0.86}[len(units)]
        return reached * plan.corrections[0].strength, 1.0

    found = search(skill).best(candidates(SETS), corrections, "units")
    assert found is not None and found.candidate == Candidate((1, 2), Variant("drift", 0.5, 1.0))
    assert found.trial.holds and found.num_candidates == len(candidates(SETS))


def test_the_sign_is_set_by_what_it_does() -> None:
    found = search(lambda units, plan: (0.6 if plan.corrections[0].strength < 0 else 0.05, 1.0)).best(
        candidates(SETS), corrections, "units"
    )
    assert found is not None and found.candidate.variant.dose == -0.5


def test_a_threshold_is_raised_where_the_guards_need_it() -> None:
    def skill(units: frozenset[int], plan: Plan) -> tuple[float, float]:
        waits = plan.corrections[0].gate.kind == "drift"
        low = not waits or (plan.detector is not None and plan.detector.threshold < 0.5)
        return (0.9, 0.8) if low else (0.7, 1.0)

    found = search(skill).best(candidates(SETS), corrections, "units")
    assert found is not None and found.candidate == Candidate((1,), Variant("drift", 0.5, 0.5))


def test_nothing_is_chosen_that_harms_or_does_nothing() -> None:
    every = candidates(SETS)
    assert search(lambda units, plan: (0.9, 0.9)).best(every, corrections, "units") is None, "guards break"
    assert search(lambda units, plan: (0.1, 1.0)).best(every, corrections, "units") is None, "no truth is restored"
    assert search(lambda units, plan: (0.13, 1.0)).best(every, corrections, "units") is None, "too little is"
    harmful = search(lambda units, plan: (0.9, 1.0), effects=SideEffects(0.0, 2.0, 0.0, 0.0))
    assert harmful.best(every, corrections, "units") is None, "side effects"


def test_most_candidates_are_tried_on_few_questions() -> None:
    looking = search(lambda units, plan: (0.1 + 0.05 * len(units), 1.0))
    every = candidates([(i, j) for i in UNITS for j in UNITS if i < j][:60])
    before = looking.asking.asked  # type: ignore[attr-defined]
    looking.best(every, corrections, "units")
    assert looking.asking.asked - before < len(every) * 2 * N * 0.7  # type: ignore[attr-defined]


def test_units_that_matter_stand_out_against_random_ones_and_others_do_not() -> None:
    def skill(units: frozenset[int], plan: Plan) -> tuple[float, float]:
        return 0.1 + 0.4 * len(units & {1, 2}), 1.0

    sets = [(i, i + 1) for i in range(3, 14)] * 2
    options = [v for v in variants([0.2]) if v.waits]
    looking = search(skill)
    found = looking.against_random(Candidate((1, 2), options[0]), corrections, sets, options)
    assert found.observed > 0.85 and found.num_reaching == 0 and len(found.null) == 22 and found.p < 0.05
    same = looking.against_random(Candidate((14, 15), options[0]), corrections, sets, options)
    assert same.num_reaching == len(same.null) < 22, "it stops as soon as p cannot be small"


def test_random_sets_that_cannot_reach_what_was_found_are_asked_no_further() -> None:
    def skill(units: frozenset[int], plan: Plan) -> tuple[float, float]:
        return 0.9 if 1 in units else 0.85 if 2 in units else 0.3, 1.0

    options, looking = [v for v in variants([0.2]) if v.waits], search(skill)

    def answers(units: tuple[int, ...]) -> int:
        """Asked for one random set."""
        before = looking.asking.asked  # type: ignore[attr-defined]
        alone = looking.against_random(Candidate((1,), options[0]), corrections, [], options)
        found = looking.against_random(Candidate((1,), options[0]), corrections, [units], options)
        assert found.observed == alone.observed and found.num_reaching == (1 in units)
        asked: int = looking.asking.asked - before  # type: ignore[attr-defined]
        return asked

    assert answers((3,)) < answers((2,)) == answers((1, 4))


def test_a_random_set_has_the_best_of_the_same_options() -> None:
    """Half a dose is what the random sets need: without their own search they would look worse than they are."""

    def skill(units: frozenset[int], plan: Plan) -> tuple[float, float]:
        wanted = 1.0 if 1 in units else 0.5
        return 0.8 if plan.corrections[0].strength == wanted else 0.1, 1.0

    options = [v for v in variants([0.2]) if v.waits]
    found = search(skill).against_random(Candidate((1,), options[0]), corrections, [(2,), (3,)], options, at_once=1)
    assert found.null == (found.observed,), "the first already reaches it"


def test_the_curve_follows_the_strength() -> None:
    curve = search(lambda units, plan: (0.8 * plan.strength, 1.0)).curve(
        Candidate((1,), Variant("drift", 0.2)), corrections
    )
    assert list(curve) == ["0.25", "0.5", "1"]
    assert curve["1"]["wrong_claim"] > curve["0.5"]["wrong_claim"] > curve["0.25"]["wrong_claim"]
