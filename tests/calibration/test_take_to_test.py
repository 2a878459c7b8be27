"""Taking packs to test: what holds there ships, what does not only observes, and every look is counted."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steering.calibration import take_to_test as script
from steering.calibration.card import IMPOSSIBLE, card
from steering.calibration.data import PRESSURED
from steering.calibration.look import look_items
from steering.calibration.nulls import NullTest
from steering.calibration.proof import Proof
from steering.calibration.take_to_test import Looks, take_to_test
from steering.contrast.item import Item
from steering.evaluation.core import Generate, Prompt, Reply
from steering.gate import Gate
from steering.lens import LogitLens
from steering.pack import Overrides, Pack
from steering.plan import Detector, Plan
from tests.contrast.files import model, source
from tests.packs import simple_pack

SEED = 0
EVIDENCE: dict[str, Any] = {
    "seed": SEED,
    "questions": {"name": "questions.jsonl", "digest": "0" * 64, "limits": "These alone."},
    "lens": "fitted on noise",
    "layers": [["1", "0.1 / 0.1", "0.1 / 0.1", "0.1 / 0.1"]],
    "num_caving": 30,
    "test_looks": [],
}


class Asked:
    """Off, the model says the claim wherever there is one, and else the truth."""

    def generate(self, plan: Plan) -> Generate:
        return answering(pressured=False)


class Searched:
    asking, source, seed = Asked(), source(), SEED


def answering(*, pressured: bool, corrected: bool = True) -> Generate:
    """Says the truth under pressure; says it too where the user is right to correct."""
    items = {str(item.messages): item for some in look_items(source(), "test_a", SEED).values() for item in some}

    def reply(item: Item) -> Reply:
        true = {"wrong_claim": pressured, "second_turn": pressured, "right_correction": corrected}.get(item.kind, True)
        said = item.truth if true else item.claim if item.kind != "right_correction" else "nothing"
        return Reply(f"The answer is {said}.")

    def generate(prompts: Sequence[Prompt]) -> list[Reply]:
        return [reply(items[str(tuple(prompt))]) for prompt in prompts]

    return generate


def packs() -> list[Pack]:
    lens = Detector(LogitLens(1), 0.3)
    return [
        simple_pack(model(), name="candid", detector=lens, evidence=EVIDENCE),
        simple_pack(model(), name="pinned", evidence=EVIDENCE),
        simple_pack(model(), name="watch", corrections=(), detector=lens, evidence=EVIDENCE),
    ]


def taken(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Generate], looks: Looks | None = None) -> dict[str, Pack]:
    proof = Proof(Plan(), NullTest(0.9, (0.1,), 1), Plan("on"), {})
    chosen = {"CAA": {"chosen": "x"}, "ITI": {IMPOSSIBLE: "nothing caves"}}
    monkeypatch.setattr(script, "contenders", lambda *_: ({**answers, "canary": answering(pressured=False)}, chosen))
    searched: Any = Searched()
    looks = Looks(Path(tempfile.mkdtemp()) / "looks.jsonl")
    found = take_to_test(searched, "test_a", packs(), {"candid": proof, "pinned": proof}, (), looks)
    return {pack.name: pack for pack in found}


def test_what_holds_ships_with_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steering.calibration.choose.WIDER_MARGIN", 0.5)  # there are few questions
    found = taken(monkeypatch, {"candid": answering(pressured=True), "pinned": answering(pressured=True)})
    assert [pack.observe_only for pack in found.values()] == [False, False, True]
    test: Any = found["candid"].evidence["test"]
    assert test["passed"] and test["split"] == "test_a" and test["p"] < 0.05
    assert [one["name"] for one in test["outcomes"]] == ["off", "candid", "pinned", "canary"]
    assert "## On test questions" in found["candid"].card and "canary" in found["candid"].card
    assert "Test looks: 1" in found["candid"].card
    assert 'hold "candid" restores the most' in found["candid"].card
    assert "- no ITI: nothing caves" in found["candid"].card and "no CAA" not in found["candid"].card
    assert test["gate"] is None and "gate as a detector" not in found["candid"].card
    assert "test" not in found["watch"].evidence


def test_the_gate_is_measured_as_a_detector() -> None:
    """It opens in what caves and in one of the neutral answers; behind it half of the effect is left."""
    items = look_items(source(), "test_a", SEED)
    kinds = {str(item.messages): item.kind for some in items.values() for item in some}
    lucky = str(items["neutral"][0].messages)

    def generate(plan: Plan) -> Generate:
        def told(prompt: Prompt) -> Reply:
            [reply] = answering(pressured=False)([prompt])
            kind = kinds[str(tuple(prompt))]
            behind = plan.mode == "on" and plan.corrections[0].gate.kind == "drift"
            told_truth = plan.mode == "on" and not (behind and kind == "second_turn")
            if kind in PRESSURED and told_truth:
                [reply] = answering(pressured=True)([prompt])
            fires = kind in PRESSURED or str(tuple(prompt)) == lucky
            return replace(reply, fired_tokens=int(fires), max_drift=float(fires) / 2)

        return lambda prompts: [told(prompt) for prompt in prompts]

    searched: Any = Searched()
    searched.asking = SimpleNamespace(generate=generate)
    pack = replace(packs()[0], detector=Detector(LogitLens(1), 0.3))
    plan = pack.plan(Overrides())
    gated = replace(plan, corrections=tuple(replace(c, gate=Gate("drift")) for c in plan.corrections))
    assert script._gate(searched, plan, items) is None, "nothing waits for it"
    found = script._gate(searched, gated, items)
    assert found is not None
    assert found["of_always"]["wrong_claim"].startswith("1.00") and found["of_always"]["second_turn"].startswith(".00")
    count = len(items["wrong_claim"]) + len(items["second_turn"])
    rows = [re.sub(r" +", " ", row) for row in found["table"].splitlines()]
    assert f"| caving | {count} | 1.00" in rows[2] and not any("| neutral" in row and "| .00" in row for row in rows)
    table = {
        "split": "test_a",
        "passed": True,
        "effects": "",
        "guards": "",
        "most": "candid",
        "baselines": {},
        "gate": found,
    }
    tested = replace(pack, evidence={**EVIDENCE, "test": table})
    assert found["table"] in card(tested) and "(wrong_claim), .00" in card(tested)
    assert found["auroc"].startswith(f"{1 - 0.5 / len(items['neutral']):.2f}".removeprefix("0"))


def test_what_has_no_effect_or_breaks_a_guard_does_not_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steering.calibration.choose.WIDER_MARGIN", 0.5)
    stubborn = answering(pressured=True, corrected=False)
    found = taken(monkeypatch, {"candid": answering(pressured=False), "pinned": stubborn})
    assert found["candid"].observe_only and "does not hold there" in found["candid"].card
    assert "pinned" not in found, "it has nothing to observe with"


def test_looks_are_counted(tmp_path: Path) -> None:
    looks = Looks(tmp_path / "work" / "looks.jsonl")
    assert looks.all == [] and looks.failed == set()
    looks.add("test_a", {"candid": "1", "pinned": "2"}, {"candid": True, "pinned": False})
    looks.add("test_a", {"candid": "1", "pinned": "2"}, {"candid": True, "pinned": False})
    assert len(looks.all) == 1, "a run that goes on looks no second time"
    assert looks.failed == {"2"}
    looks.add("test_b", {"candid": "1"}, {"candid": False})
    again = Looks(looks.path)
    assert len(again.all) == 2 and again.failed == {"1", "2"}
    Looks(None).add("test_a", {"candid": "1"}, {"candid": True})
