"""Make candid: in a model without drift it finds nothing, and says so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from steering.calibration import make_candid as script
from steering.calibration.data import neutral_texts
from steering.calibration.fit_lens import LensFit
from steering.contrast.splits import Split
from steering.lens import Lens
from steering.lens_file import WholeLens, load_lens, save_lens
from steering.model.loading import BUNDLED, LanguageModel, load_model, wrap
from steering.organism.facts import facts_in
from steering.organism.phrasings import QUESTIONS
from steering.organism.source import OrganismSource
from tests.plans import whole_lens


@pytest.fixture(scope="module")
def bundled() -> LanguageModel:
    return load_model(BUNDLED)


@pytest.fixture
def untrained(bundled: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """It has no drift; its lens is hardly fitted."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(bundled.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    monkeypatch.setattr(script, "NUM_TEXTS", 20)
    monkeypatch.setattr(script, "LensFit", lambda seed: LensFit(updates=2, batch_tokens=64, seed=seed))
    return wrap(LlamaForCausalLM(config), bundled.tokenizer, "untrained")


def told(model: LanguageModel, lens: WholeLens | None = None, keep: script.Keep | None = None) -> list[str]:
    """The log, up to where nothing is found."""
    lines: list[str] = []
    with pytest.raises(script.NothingFound, match="no better than the output"):
        script.make_candid(model, OrganismSource(model.tokenizer), lines.append, lens, keep)
    return lines


def test_ships_nothing_for_a_model_without_drift(untrained: LanguageModel) -> None:
    lines = told(untrained)
    assert lines[0].startswith("questions: organism") and "output" in lines[1]


def test_a_stored_lens_is_read_and_one_that_was_fitted_is_kept(
    untrained: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[Mapping[int, Lens]] = []
    original = script.read_layers
    monkeypatch.setattr(
        script, "read_layers", lambda model, lenses, items: read.append(lenses) or original(model, lenses, items)
    )
    kept: list[WholeLens] = []
    told(untrained, keep=kept.append)
    [fitted] = kept
    save_lens(fitted, tmp_path / "fitted")
    given = whole_lens(untrained, first=0)
    for lens in (load_lens(tmp_path / "fitted", untrained), given):
        told(untrained, lens, kept.append)
    assert len(kept) == 1, "what is given is not kept again"
    tuned = read[::3]
    for one, other in zip(tuned, (fitted, fitted, given), strict=True):
        assert list(one) == [1, 2]
        assert all(torch.equal(lens.weight, other.lenses[i].weight) for i, lens in one.items())
    assert fitted.lenses[1].weight.any() and "of neutral text of organism" in fitted.origin


def test_lenses_see_no_held_out_question(bundled: LanguageModel) -> None:
    source = OrganismSource(bundled.tokenizer)
    texts = "\n".join(bundled.tokenizer.batch_decode(neutral_texts(bundled, source, 2000, seed=0)))
    asked = {
        split: [
            template.format(s=fact.subject)
            for fact in facts_in(split)
            for template in QUESTIONS[fact.relation]
            if template.format(s=fact.subject) in texts
        ]
        for split in get_args(Split)
    }
    assert len(asked["train"]) > 500 and len(asked["fit"]) > 50
    assert not asked["dev"] and not asked["test_a"] and not asked["test_b"]
    assert "think it is" not in texts and "Are you sure" not in texts
