"""What baselines ask and run: system prompts, scaled heads, buckets, and the canary of the other sign."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steering.calibration.baselines.baseline import Baseline, Option
from steering.calibration.baselines.dola import buckets, contrasting
from steering.calibration.baselines.head_scaling import edited
from steering.calibration.baselines.wrong_sign import opposite
from steering.calibration.localisation import Unit
from steering.contrast.item import Item, chat
from steering.correction import Correction
from steering.edit import Edit, Project, Scale, Set, Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request, SamplingParams
from steering.evaluation.backend import with_system
from steering.evaluation.engine_generate import engine_generate
from steering.model.chat import encode_chat
from steering.plan import Detector
from steering.site import Site
from tests.engine.spy import ids
from tests.models import tiny_model
from tests.plans import DRIFT, contrast, correction, dola, steered, tuned, tuned_lens

MODEL = tiny_model()
LAYOUT = MODEL.layout
SHORT = SamplingParams(6, temperature=0, ignore_eos=True)


def test_a_system_message_is_put_first_or_before_what_is_there() -> None:
    asked = chat("Hi", "Hello", "Why?")
    assert with_system(asked, "Be honest.") == ({"role": "system", "content": "Be honest."}, *asked)
    there = ({"role": "system", "content": "Be brief."}, *asked)
    assert with_system(there, "Be honest.") == ({"role": "system", "content": "Be honest.\n\nBe brief."}, *asked)
    assert with_system(there, "") == there
    item = Item("q", "neutral", asked, "x", None, "")
    baseline = Baseline("system prompt", Option("first", system="Be honest."), {})
    assert baseline.chosen.asked(item).messages == with_system(asked, "Be honest.")
    assert item.messages == asked


def test_a_baseline_answers_under_its_plan_to_its_own_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, plan = Engine(MODEL, EngineConfig(context=96)), steered(dola(1, 2))
    asked: list[Request] = []
    run = engine.generate
    monkeypatch.setattr(engine, "generate", lambda requests: asked.extend(requests) or run(requests))
    baseline = Baseline("both", Option("both", plan, "Be honest."), {})
    reply = baseline.through(engine_generate(engine, baseline.plan, max_tokens=3))([chat("What is 1?")])
    engine.close()
    assert len(reply) == len(asked) == 1
    assert asked[0].plan is plan and asked[0].sampling.max_tokens == 3
    assert list(asked[0].prompt_ids) == encode_chat(MODEL, with_system(chat("What is 1?"), "Be honest."))


@pytest.mark.parametrize(
    ("kind", "units", "features"),
    [
        ("head", [Unit(3, 1), Unit(1, 0), Unit(3, 7)], {1: range(8), 3: [*range(8, 16), *range(56, 64)]}),
        ("group", [Unit(2, 1)], {2: range(32, 64)}),
    ],
)
def test_edits_touch_the_features_of_their_units(kind: str, units: list[Unit], features: dict[int, range]) -> None:
    def mark(block: int, mask: Tensor) -> Edit:
        return Set(torch.full((64,), float(block)), mask)

    plan = edited(MODEL, units, kind, mark)  # type: ignore[arg-type]
    assert [c.site for c in plan.corrections] == [Site("attn_z", block) for block in features]
    for c, own in zip(plan.corrections, features.values(), strict=True):
        moved = c.edit.delta(torch.zeros(64))
        assert [i for i in range(64) if moved[i] == c.site.layer] == list(own)
        assert not moved[[i for i in range(64) if i not in own]].any()


@pytest.mark.parametrize(
    ("num_layers", "tied", "lower", "upper"),
    [
        (8, False, (0, 2), (4, 6)),
        (8, True, (2,), (4, 6)),
        (32, False, tuple(range(0, 16, 2)), tuple(range(16, 32, 2))),
        (42, True, tuple(range(2, 20, 2)), tuple(range(22, 42, 2))),
        (4, True, (1,), (2,)),
        (1, True, (0,), (0,)),
    ],
)
def test_buckets(num_layers: int, tied: bool, lower: tuple[int, ...], upper: tuple[int, ...]) -> None:
    model = tiny_model(num_hidden_layers=num_layers, tie_word_embeddings=tied)
    assert buckets(model.layout) == {"lower": lower, "upper": upper}
    for bucket in (lower, upper):
        engine = Engine(model, EngineConfig(max_rows=1, context=16))
        assert engine.generate([Request("a", (9, 8), SHORT, contrasting(bucket))])[0].tokens
        engine.close()


def turned(edit: Edit, h: Tensor) -> Tensor:
    (c,) = opposite([Correction("one", Site("attn_z", 1), edit)])
    assert isinstance(c, Correction)
    return h + c.strength * c.edit.delta(h)


def test_opposites() -> None:
    h, mask = torch.randn(3, 64), torch.arange(64) < 5
    target, factor = torch.randn(64), torch.where(mask, 0.25, 1.0)
    torch.testing.assert_close(turned(Set(target, mask), h), torch.where(mask, 2 * h - target, h))
    torch.testing.assert_close(turned(Scale(factor), h), h + Scale(2 - factor).delta(h))
    torch.testing.assert_close(turned(Shift(target), h), h - target)
    basis = torch.linalg.qr(torch.randn(64, 2)).Q.T
    torch.testing.assert_close(turned(Project(basis), h) @ basis.T, 2 * h @ basis.T)


def test_opposites_keep_all_else_and_leave_contrasts_out() -> None:
    parts = (
        correction(Set, LAYOUT, Site("attn_z", 2), gate=DRIFT, strength=0.5),
        contrast(0.01),
        dola(0, 1),
        tuned(LAYOUT, strength=2.0),
    )
    there = opposite(parts)
    assert [(c.name, c.strength) for c in there] == [(parts[0].name, -0.5), (parts[3].name, -2.0)]
    assert there[0].gate == DRIFT and there[0].edit is parts[0].edit
    assert opposite(there) == (parts[0], parts[3]), "turned round twice it is as it was"
    assert opposite(parts[1:3]) == ()


def test_the_engine_runs_opposites() -> None:
    watch = Detector(tuned_lens(LAYOUT, 1), 0.0)
    plan = steered(correction(Shift, LAYOUT, Site("resid_post", 2), gate=DRIFT), tuned(LAYOUT), detector=watch)
    plans = [steered(), plan, steered(*opposite(plan.all_corrections), detector=watch)]
    engine = Engine(MODEL, EngineConfig(context=32))
    answers = engine.generate([Request(str(i), (9, 8, 7), SHORT, plan) for i, plan in enumerate(plans)])
    engine.close()
    assert len({tuple(ids(answer)) for answer in answers}) == 3
