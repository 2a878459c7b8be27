"""Sources as calibration uses them: a file's questions on a tiny model, and the organism."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from steering.calibration import find_detector, pipeline
from steering.calibration.answer_probability import answer_probabilities
from steering.calibration.data import (
    GUARDS,
    PRESSURED,
    answer_position,
    development_items,
    harmless_items,
    neutral_items,
    neutral_texts,
    pressured_items,
    story_texts,
)
from steering.calibration.find_drift import read_layers
from steering.calibration.fit_lens import LensFit
from steering.calibration.head_groups import neutral_means
from steering.calibration.pipeline import Calibration, CalibrationConfig
from steering.contrast.formats import load_questions
from steering.contrast.item import OPENING, Item
from steering.contrast.phrasings import SINGLE_TURN
from steering.contrast.questions import Questions
from steering.contrast.source import Source, question_source
from steering.contrast.splits import SPLITS, Split, split_of
from steering.engine.engine import Engine
from steering.errors import DataError, TemplateError
from steering.evaluation.core import Reply, evaluate
from steering.lens import LogitLens
from steering.model.chat import encode_chat
from steering.model.loading import BUNDLED, load_model, wrap
from steering.organism.facts import facts_in
from steering.organism.source import OrganismSource
from steering.plan import Plan
from tests.calibration.few import Silent
from tests.contrast.files import as_rows, model, questions, source, write_jsonl
from tests.models import byte_tokenizer, tiny_hf


@pytest.fixture(scope="module")
def organism() -> OrganismSource:
    return OrganismSource(load_model(BUNDLED).tokenizer)


def asked_of(items: list[Item]) -> set[str]:
    return {item.question_id for item in items}


def test_what_is_fitted_developed_and_tested_on_is_disjoint() -> None:
    sides: dict[Split, set[str]] = {split: asked_of(source().items("neutral", split, seed=0)) for split in SPLITS}
    assert sum(map(len, sides.values())) == 60 == len(set.union(*sides.values()))
    developed = development_items(source(), 0)
    for kind in (*PRESSURED, *GUARDS):
        assert asked_of(developed[kind]) == sides["dev"]
    assert asked_of(neutral_items(source(), 0)) == asked_of(pressured_items(source(), "fit", seed=0)) == sides["fit"]
    harmless = harmless_items(source(), 0)
    assert asked_of(harmless["neutral"]) == sides["fit"]
    assert (len(harmless["in_context"]), len(harmless["uptake"])) == (1200, 600)
    for kind in ("in_context", "uptake"):
        texts = [{str(item.messages) for item in items} for items in (harmless[kind], developed[kind])]
        assert len(texts[0]) == len(harmless[kind]) and not texts[0] & texts[1]


def test_calibration_does_not_see_held_phrasings() -> None:
    single = [item for item in pressured_items(source(), "fit", seed=0, per_question=9) if item.kind == "wrong_claim"]
    assert {item.phrasing for item in single} == {phrasing.name for phrasing in SINGLE_TURN}
    held = pressured_items(source(), "fit", seed=0, phrasings="held")
    assert held and all(item.phrasing.startswith("held_") for item in held)


@pytest.mark.parametrize("kind", ["in_context", "uptake"])
def test_made_up_questions_are_answered_by_what_the_user_says(kind: str) -> None:
    make = source().in_context_items if kind == "in_context" else source().uptake_items
    items = make(300, "dev", 4)
    assert items == make(300, "dev", 4) != make(300, "dev", 5)
    turns = {len(item.messages) for item in items}
    assert len(asked_of(items)) == 300 and turns == ({1} if kind == "in_context" else {1, 3})
    for item in items:
        said = item.messages[-1]["content"]
        if item.phrasing == "count":
            listed = re.search(r"list: (.*?)\.", said)
            assert listed and item.truth == str(len(listed[1].split(", ")))
        else:
            assert re.search(rf"\b{item.truth}\b", said)
        assert item.answer_in(f"The answer is {item.truth}.") == item.truth
        assert all(item.answer_in(f"It is {other}.") == other != item.truth for other in item.also_wrong)


def test_texts_to_fit_on_hold_no_held_out_question_and_no_pressure() -> None:
    texts = model().tokenizer.batch_decode(neutral_texts(model(), source(), 200, seed=0))
    seen = {question.text for question in questions() for text in texts if question.text in text}
    assert len(seen) > 10 and {split_of(text) for text in seen} == {"fit"}
    assert not any(mark in text for text in texts for mark in ("I think the answer", "Are you sure", "I am certain"))
    assert all(text.endswith(".") for text in texts)
    stories = story_texts(model(), source(), 5, seed=0)
    assert len(set(stories)) == 5 and all(story[0] == model().tokenizer.bos_token_id for story in stories)


def test_calibration_reads_and_measures_a_files_items() -> None:
    items = pressured_items(source(), "dev", seed=0)[:6] + source().items("choice_claim", "dev", seed=0)[:4]
    positions = answer_position(model(), items)
    for ids, item in zip(positions, items, strict=True):
        assert ids[: len(encode_chat(model(), item.messages))] == encode_chat(model(), item.messages)
        assert model().tokenizer.decode(ids).endswith(item.form.opening)
    reads = read_layers(model(), {layer: LogitLens(layer) for layer in (1, 2, 3)}, items)
    assert (reads.truth_ids != reads.claim_ids).all()
    logits = model().hf(input_ids=torch.tensor([positions[-1]])).logits[0, -1].softmax(-1)
    assert reads.truth[-1, -1].item() == pytest.approx(logits[reads.truth_ids[-1]].item(), rel=1e-3)
    assert 0 <= answer_probabilities(Engine(model()), [(Plan(), items)])[0] <= 1
    assert neutral_means(model(), neutral_items(source(), 0)[:4]).keys() == {0, 1, 2, 3}


def test_grading_needs_nothing_of_the_organism() -> None:
    items = source().items("wrong_claim", "test_a", seed=0)
    caving = evaluate(items, lambda prompts: [Reply(f"You are right. The answer is {item.claim}.") for item in items])
    holding = evaluate(items, lambda prompts: [Reply(f"Not {item.claim}. It is {item.truth}.") for item in items])
    assert all(graded.caved and graded.stance_fits is None for graded in caving)
    assert all(graded.is_true and not graded.is_claim for graded in holding)


def test_calibration_of_any_model_ends_in_an_honest_no_where_there_is_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "NUM_TEXTS", 20)
    monkeypatch.setattr(find_detector, "LensFit", lambda seed: LensFit(updates=2, batch_tokens=64, seed=seed))
    lines: list[str] = []
    [pack] = Calibration(model(), source(), CalibrationConfig(), None, lines.append, Silent()).run()
    assert pack.observe_only and "there is no drift to watch" in pack.card
    assert lines[0].startswith("questions: questions.jsonl (") and "left out: none" in lines[0]


def test_a_file_becomes_a_source(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", as_rows(questions()))
    made: Source = question_source(load_questions(path), model())
    assert made.digest == source().digest and made.name == "mine.jsonl"
    assert made.items("wrong_claim", "fit", seed=1) == source().items("wrong_claim", "fit", seed=1)
    few = write_jsonl(tmp_path / "few.jsonl", as_rows(questions()[:3]))
    with pytest.raises(DataError, match=r"few\.jsonl: no question falls in split .* add some"):
        question_source(load_questions(few), model())


def test_a_model_without_a_chat_template_is_refused() -> None:
    tokenizer = byte_tokenizer("none", 300)
    tokenizer.chat_template = None
    plain = wrap(tiny_hf(vocab_size=300), tokenizer, "plain")
    with pytest.raises(TemplateError, match="model plain has no chat template"):
        question_source(Questions("any.jsonl", tuple(questions()), {}), plain)


def test_the_organism_is_a_source(organism: OrganismSource) -> None:
    known: Source = organism
    assert known.fitted == ("train", "fit") and len(known.digest) == 64
    fitted = [fact.fact_id for split in known.fitted for fact in facts_in(split)]
    assert [item.question_id for item in neutral_items(known, 0)] == fitted
    with pytest.raises(ValueError, match="not asked as 'choice'"):
        known.items("choice", "dev", seed=0)


def test_openings_are_where_they_were(organism: OrganismSource) -> None:
    """Continuing the assistant's turn is what appending the opening's tokens to the prompt was."""
    bundled = load_model(BUNDLED)
    opening = bundled.tokenizer.encode(OPENING, add_special_tokens=False)
    items = pressured_items(organism, "dev", seed=0)[::20]
    for item, ids in zip(items, answer_position(bundled, items), strict=True):
        assert ids == encode_chat(bundled, item.messages) + opening
        for answer in (item.truth, str(item.claim)):
            first = bundled.tokenizer.encode(f" {answer}", add_special_tokens=False)[0]
            assert item.form.first_token(bundled.tokenizer, answer) == first
