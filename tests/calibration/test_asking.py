"""Asking: nothing is asked twice, not even by the next run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steering.calibration.asking import Asking
from steering.calibration.kept_results import KeptResults
from steering.contrast.item import Item, chat
from steering.correction import Correction
from steering.edit import Scale
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.evaluation.core import evaluate
from steering.evaluation.engine_generate import engine_generate
from steering.plan import Plan
from steering.site import Site
from tests.models import tiny_model

ITEMS = [Item(f"q{i}", "neutral", chat(f"Who is {i}?"), "Ada", "Bob", "") for i in range(3)]


class Counting(Engine):
    """Counts what it is asked."""

    asked = 0

    def generate(self, requests):  # type: ignore[no-untyped-def]
        type(self).asked += len(requests)
        return super().generate(requests)


@pytest.fixture
def engine() -> Counting:
    Counting.asked = 0
    return Counting(tiny_model(), EngineConfig(max_rows=4))


def scaled(factor: float) -> Plan:

    return Plan("on", corrections=(Correction("scaled", Site("attn_z", 2), Scale(torch.full((64,), factor))),))


def test_a_second_run_hears_what_the_first_was_told(engine: Counting, tmp_path: Path) -> None:
    def run() -> tuple[object, ...]:
        asking = Asking(engine, KeptResults(tmp_path / "kept.jsonl", {"run": 1}))
        replies = [graded.reply for graded in evaluate(ITEMS, asking.generate(scaled(0.5)))]
        return (
            replies,
            asking.probabilities([(Plan(), ITEMS)]),
            asking.side_effects(scaled(0.5), [(1, 2, 3)], [(4, 5, 6, 7)]),
        )

    first, asked = run(), Counting.asked
    assert asked > 0 and run() == first and Counting.asked == asked
    plain = engine_generate(engine, scaled(0.5), max_tokens=48)([item.messages for item in ITEMS])
    assert first[0] == plain


def test_another_plan_other_prompts_other_truths_are_other_questions(engine: Counting) -> None:
    asking = Asking(engine, KeptResults(None, {}))
    counts = []
    for plan, items in ((Plan(), ITEMS), (scaled(0.5), ITEMS), (scaled(0.25), ITEMS), (Plan(), ITEMS[:2])):
        before = Counting.asked
        evaluate(items, asking.generate(plan))
        asking.probabilities([(plan, items)])
        counts.append(Counting.asked - before)
    assert counts == [6, 6, 6, 4]
    before = Counting.asked
    asking.probabilities([(Plan(), [Item("q0", "neutral", ITEMS[0].messages, "Bob", "Ada", "")])])
    assert Counting.asked == before + 1


def test_what_is_asked_together_is_answered_as_alone_and_only_what_is_new_is_asked(engine: Counting) -> None:
    prompts = [item.messages for item in ITEMS]
    asking = Asking(engine, KeptResults(None, {}))
    alone = asking.generate(scaled(0.5))(prompts)
    before = Counting.asked
    together = asking.answers([(Plan(), prompts), (scaled(0.5), prompts), (Plan(), prompts), (Plan(), prompts[:1])])
    assert Counting.asked == before + 4
    assert together[1] == alone and together[0] == together[2] and together[3] == together[0][:1]


def test_a_batch_is_kept_whole_or_not_at_all(engine: Counting, tmp_path: Path) -> None:
    """Killed while it writes, a run asks again for all of it: in the same batch, so that bits are the same."""
    prompts, kept = [item.messages for item in ITEMS], tmp_path / "kept.jsonl"
    asked = [(Plan(), prompts), (scaled(0.5), prompts)]
    first = Asking(engine, KeptResults(kept, {"run": 1})).answers(asked)
    kept.write_bytes(kept.read_bytes()[:-9])
    before = Counting.asked
    assert Asking(engine, KeptResults(kept, {"run": 1})).answers(asked) == first
    assert Counting.asked == before + 6
