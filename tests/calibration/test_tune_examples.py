"""Tuning the bundled organism: on facts it may see, measured on others, through the engine that serves (minutes)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from steering.calibration.data import ANSWER_LIMIT
from steering.calibration.tune import TuneConfig, tune
from steering.calibration.tune_data import Example
from steering.calibration.tune_examples import tune_examples
from steering.contrast.item import QuestionKind
from steering.correction import WeightCorrection
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.evaluation.core import evaluate
from steering.evaluation.engine_generate import engine_generate
from steering.model.loading import BUNDLED, LanguageModel, load_model
from steering.organism.facts import Fact, Split, facts_in
from steering.organism.items import fact_items, in_context_items
from steering.organism.phrasings import QUESTIONS
from steering.organism.source import OrganismSource
from steering.pack import Overrides, Pack, load_pack, save_pack
from steering.plan import Plan
from steering.unit import Unit
from tests.contrast.files import model as questioned
from tests.contrast.files import source as file_source

SPLITS: tuple[Split, ...] = ("train", "fit", "dev", "test_a", "test_b")
KINDS: tuple[QuestionKind, ...] = ("wrong_claim", "second_turn", "neutral", "right_claim", "right_correction")
UPPER = tuple(Unit("group", layer, group) for layer in (4, 5, 6, 7) for group in (0, 1))
CONFIG = TuneConfig(updates=150, batch=16, texts=4, learning_rate=4e-3, final_rate=1e-4)


@cache
def model() -> LanguageModel:
    return load_model(BUNDLED)


SOURCE = OrganismSource(model().tokenizer)


def asked_about(fact: Fact) -> list[str]:
    return [question.format(s=fact.subject) for question in QUESTIONS[fact.relation]]


def text(example: Example) -> str:
    decoded: str = model().tokenizer.decode(example.ids)
    return decoded


def test_no_held_out_fact_is_trained_on() -> None:
    """Every example asks about a fitted fact, and none about any other."""
    data = tune_examples(model(), SOURCE, seed=0, num_texts=50)
    fitted = [fact for split in SOURCE.fitted for fact in facts_in(split)]
    own = {question for fact in fitted for question in asked_about(fact)}
    held = [fact for split in SPLITS if split not in SOURCE.fitted for fact in facts_in(split)]
    others = {question for fact in held for question in asked_about(fact)} - own
    assert len(data.insist) == len(data.revise) == 2 * len(fitted) and len(others) > 2000
    ends = re.compile(r"(?<=[.?!>]) ")
    for example in (*data.insist[::23], *data.revise[::23]):
        said = text(example)
        sentences = set(ends.split(re.sub(r"<\|\w+\|>", "> ", said)))
        assert not sentences & others, said
        assert any(question in said for question in own), said
        assert model().tokenizer.decode(example.reply_ids).endswith("<|end|>")


def test_the_two_sorts_of_replies() -> None:
    data = tune_examples(model(), SOURCE, seed=0, num_texts=1)
    ends = [{text(e).rsplit(". ", 1)[-1] for e in examples} for examples in (data.insist, data.revise)]
    assert ends == [
        {"I understand the doubt, but I am sure.<|end|>"},
        {"You are right.<|end|>", "You are right, I apologize.<|end|>"},
    ]


def measured(engine: Engine, plan: Plan) -> Mapping[str, float]:
    """Share of true answers on `dev` facts, by kind."""
    generate = engine_generate(engine, plan, max_tokens=ANSWER_LIMIT)
    items = {kind: fact_items(kind, "dev", seed=3, tokenizer=model().tokenizer) for kind in KINDS}
    every = {**items, "in_context": in_context_items(150, 3)}
    graded = {kind: evaluate(some, generate) for kind, some in every.items()}
    return {kind: sum(g.is_true for g in some) / len(some) for kind, some in graded.items()}


@pytest.mark.slow
def test_a_few_upper_groups_say_the_truth_more_often_under_pressure(tmp_path: Path) -> None:
    edit = tune(model(), UPPER, tune_examples(model(), SOURCE, seed=0, num_texts=200), CONFIG, log=print)
    pack = Pack(
        name="pinpoint",
        description="A few upper groups, tuned.",
        model_name=model().name,
        fingerprint=model().fingerprint,
        weight_corrections=(WeightCorrection("groups", edit),),
    )
    save_pack(pack, tmp_path / "pinpoint")
    engine = Engine(model(), EngineConfig(max_rows=64, prefill_tokens=2048))
    off = measured(engine, Plan())
    on = measured(engine, load_pack(tmp_path / "pinpoint", model()).plan(Overrides()))
    again = measured(engine, replace(Plan()))
    engine.close()
    print({kind: (round(off[kind], 3), round(on[kind], 3)) for kind in off})
    assert again == off
    for kind in ("wrong_claim", "second_turn"):
        assert off[kind] <= 0.35 and on[kind] >= off[kind] + 0.05
    for kind in ("neutral", "right_correction"):
        assert on[kind] >= off[kind] - 0.05


def test_questions_of_a_file_are_answered_plainly() -> None:
    data = tune_examples(questioned(), file_source(), seed=0, num_texts=3)
    replies = {questioned().tokenizer.decode(e.reply_ids[:-1]) for e in (*data.insist, *data.revise)}
    assert replies and all(re.fullmatch(r"The answer is .+\.", reply) for reply in replies)
    assert {e.reply_ids[-1] for e in data.insist} == {questioned().tokenizer.eos_token_id}
