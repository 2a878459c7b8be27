"""Probability of the truth: what a plain forward says, and moved by a correction."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steering.calibration.answer_probability import answer_probabilities
from steering.calibration.data import first_token
from steering.calibration.head_groups import neutral_means, set_to_means
from steering.calibration.localisation import Unit
from steering.contrast.item import OPENING, Item
from steering.engine.engine import Engine
from steering.engine.request import MAX_TOP_LOGPROBS, Request
from steering.errors import EngineFailure, NumericalError
from steering.gate import Gate
from steering.model.chat import encode_chat
from steering.model.loading import LanguageModel
from steering.plan import Plan
from tests.models import tiny_model

ITEMS = [
    Item(str(i), "wrong_claim", ({"role": "user", "content": f"What is {i}?"},), truth, "Lyon", "")
    for i in range(20)
    for truth in ("Paris", "Rome", "capital", "You", "東京")
]


@torch.no_grad()
def plain(model: LanguageModel, item: Item) -> tuple[float, bool]:
    """(P(truth's first token) after the opening, whether the engine lists that token)."""
    ids = encode_chat(model, item.messages) + model.tokenizer.encode(OPENING, add_special_tokens=False)
    logits = model.hf(input_ids=torch.tensor([ids])).logits[0, -1]
    token = first_token(model, item.truth)
    return logits.softmax(-1)[token].item(), token in logits.topk(MAX_TOP_LOGPROBS).indices.tolist()


def test_is_the_mean_over_items_of_what_a_plain_forward_gives() -> None:
    model = tiny_model()
    expected = [plain(model, item) for item in ITEMS]
    assert {listed for _, listed in expected} == {True, False}
    got = answer_probabilities(Engine(model), [(Plan(), ITEMS)])
    assert got[0] == pytest.approx(sum(p for p, listed in expected if listed) / len(ITEMS), rel=1e-3)


def test_corrections_move_it() -> None:
    model = tiny_model()
    means = neutral_means(model, ITEMS)
    corrections = set_to_means(model.layout, means, [Unit(3, 0), Unit(3, 1)], Gate())
    on, engine = Plan("on", corrections=corrections), Engine(model)
    both = answer_probabilities(engine, [(on, ITEMS), (Plan(), ITEMS[:30])])
    assert both[0] != pytest.approx(answer_probabilities(engine, [(Plan(), ITEMS)])[0], rel=1e-2)
    alone = [answer_probabilities(engine, [one])[0] for one in ((on, ITEMS), (Plan(), ITEMS[:30]))]
    assert both == pytest.approx(alone, rel=1e-4), "in one batch each has its own plan and items"


class Failing:
    """Every request ends with one error."""

    def __init__(self, error: Exception) -> None:
        self.model, self._error = tiny_model(), error

    def generate(self, requests: Sequence[Request]) -> list[Any]:
        return [SimpleNamespace(finish=SimpleNamespace(error=self._error), tokens=()) for _ in requests]


def test_numbers_that_a_plan_breaks_say_nothing_true_and_other_failures_are_raised() -> None:
    broken: Any = Failing(NumericalError("NaN"))
    assert answer_probabilities(broken, [(Plan(), ITEMS)]) == [0.0]
    failed: Any = Failing(EngineFailure("the step failed"))
    with pytest.raises(EngineFailure):
        answer_probabilities(failed, [(Plan(), ITEMS)])
