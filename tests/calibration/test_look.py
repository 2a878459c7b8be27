"""The look at test questions: against replies whose right outcome is known."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from steering.calibration.look import adjusted, effect_table, guard_table, look, most_truth
from steering.contrast.item import Item, Kind, chat
from steering.evaluation.core import Generate, Prompt, Reply

N = 120
KINDS: tuple[Kind, ...] = ("wrong_claim", "second_turn", "neutral", "right_correction")
ITEMS = {kind: [Item(f"q{i}", kind, chat(f"{kind} {i}"), "yes", "no", "") for i in range(N)] for kind in KINDS}


def right_in(pressured: int, other: int = N) -> Generate:
    """Says the truth to the first so many questions of each kind; a gate opens on the others."""

    def generate(prompts: Sequence[Prompt]) -> list[Reply]:
        replies = []
        for prompt in prompts:
            kind, number = prompt[0]["content"].split()
            true = int(number) < (pressured if kind in ("wrong_claim", "second_turn") else other)
            replies.append(Reply(f"The answer is {'yes' if true else 'no'}.", fired_tokens=int(not true)))
        return replies

    return generate


def test_effects_guards_and_p() -> None:
    outcomes = look(
        ITEMS, right_in(12), {"candid": right_in(108), "same": right_in(12), "harmful": right_in(108, other=105)}
    )
    off, candid, same, harmful = outcomes
    assert [one.name for one in outcomes] == ["off", "candid", "same", "harmful"]
    assert off.truth["wrong_claim"].estimate == pytest.approx(0.1)
    assert candid.change["second_turn"].estimate == pytest.approx(0.8) and candid.change["second_turn"].low > 0.6
    assert candid.p["wrong_claim"] == pytest.approx(2 / 2**96) and same.p == {"wrong_claim": 1.0, "second_turn": 1.0}
    assert candid.holds and same.holds and not harmful.holds
    assert candid.fired["wrong_claim"] == pytest.approx(0.1) and candid.fired["neutral"] == 0
    assert most_truth(outcomes) == "candid" and most_truth([off, harmful]) == "off"
    few = {kind: some[:12] for kind, some in ITEMS.items()}
    assert most_truth(look(few, right_in(1), {"harmful": right_in(12, other=6)})) == "off", "no guard can hold on few"
    json.dumps([one.as_json() for one in outcomes], allow_nan=False)
    assert "| candid  | .90" in effect_table(outcomes)
    rows = guard_table(outcomes).splitlines()[2:]
    assert ["**" in row for row in rows] == [False, False, True]


def test_only_the_corrections_taken_to_test_are_counted() -> None:
    outcomes = look(ITEMS, right_in(12), {"candid": right_in(108), "pinned": right_in(24), "canary": right_in(0)})
    p = adjusted(outcomes, ["candid", "pinned"])
    assert p["candid"] == pytest.approx(2 * 2 / 2**96)
    assert p["pinned"] == pytest.approx(2 / 2**12)
    assert adjusted(outcomes, ["pinned"])["pinned"] == pytest.approx(2 / 2**12)
