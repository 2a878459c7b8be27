"""Contenders: what stands beside a correction on test questions, and what is said where a baseline cannot be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from steering.calibration import contenders as script
from steering.calibration.card import IMPOSSIBLE
from steering.calibration.contenders import contenders
from steering.errors import NothingToLocalise, TemplateError
from steering.evaluation.core import Prompt, Reply
from steering.gate import Gate
from steering.lens import LogitLens
from steering.plan import Detector, Plan
from tests.contrast.files import model, source
from tests.packs import simple_pack


class Searched:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.asking = self

    def generate(self, plan: Plan) -> Any:
        return plan

    def log(self, line: str) -> None:
        self.lines.append(line)


def answering_nothing(prompts: Sequence[Prompt]) -> list[Reply]:
    return []


def test_every_correction_stands_beside_its_own_canaries() -> None:
    searched: Any = Searched()
    pack = simple_pack(model(), name="candid", detector=Detector(LogitLens(1), 0.3))
    waiting = tuple(replace(c, gate=Gate("drift")) for c in pack.corrections)
    pack = replace(pack, corrections=waiting)
    random, answer = Plan("on"), answering_nothing
    answering, evidence = contenders(
        searched,
        [pack],
        {"candid": random},
        [("CAA", lambda: (answer, {"chosen": "x"}))],
    )
    plans: Any = answering
    assert list(answering) == [
        "candid",
        "candid, gate always",
        "candid, random units",
        "candid, wrong sign",
        "CAA",
    ]
    assert {c.gate for c in plans["candid, gate always"].corrections} == {Gate()}
    assert plans["candid, random units"] is random and plans["CAA"] is answer
    kept, turned = (plans[name].corrections[0].strength for name in ("candid", "candid, wrong sign"))
    assert kept == -turned != 0
    assert evidence == {"CAA": {"chosen": "x"}}


@pytest.mark.parametrize("error", [NothingToLocalise("nothing caves"), TemplateError("no system message")])
def test_a_baseline_that_cannot_be_made_is_named_with_its_reason(error: Exception) -> None:
    def impossible() -> Any:
        raise error

    searched: Any = Searched()
    answering, evidence = contenders(searched, [], {}, [("ITI", impossible)])
    assert answering == {} and evidence == {"ITI": {IMPOSSIBLE: str(error)}}
    assert searched.lines == [f"no ITI: {error}"]


@pytest.mark.parametrize("tuned", [False, True])
def test_baselines_are_made_when_their_turn_comes(tuned: bool) -> None:
    searched: Any = Searched()
    searched.source, searched.seed = source(), 0
    names = [name for name, _ in script.baselines(searched, None, tuned=tuned)]
    assert names == ["system prompt", "CAA", "ITI", "DoLa", *["full fine-tuning"] * tuned]


def test_an_open_gate_leaves_the_rest_as_it_is() -> None:
    pack = simple_pack(model(), name="candid", detector=Detector(LogitLens(1), 0.3))
    plan = Plan("on", corrections=pack.corrections, detector=pack.detector)
    assert {c.gate for c in script.always_open(plan).corrections} == {Gate()}
    assert script.always_open(plan).detector is plan.detector
