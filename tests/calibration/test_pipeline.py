"""The pipeline: what it proves it ships, what it does not it says, and a stopped run goes on with the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from steering.calibration import find_detector, pipeline
from steering.calibration.data import neutral_texts
from steering.calibration.fit_lens import LensFit
from steering.calibration.pipeline import Calibration, CalibrationConfig
from steering.contrast.splits import Split
from steering.lens_file import WholeLens, load_lens
from steering.model.loading import BUNDLED, LanguageModel, load_model, wrap
from steering.organism.facts import facts_in
from steering.organism.phrasings import QUESTIONS
from steering.organism.source import OrganismSource
from tests.calibration.few import Few, Silent
from tests.plans import whole_lens


@pytest.fixture(scope="module")
def bundled() -> LanguageModel:
    return load_model(BUNDLED)


def calibration(
    model: LanguageModel, lines: list[str], work: Path | None = None, lens: WholeLens | None = None
) -> Calibration:
    source: Any = Few(OrganismSource(model.tokenizer), 20)
    return Calibration(model, source, CalibrationConfig(num_nulls=19), work, lines.append, Silent(), lens)


@pytest.fixture
def untrained(bundled: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """It knows nothing; its lens is hardly fitted."""
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
    monkeypatch.setattr(pipeline, "NUM_TEXTS", 20)
    monkeypatch.setattr(find_detector, "LensFit", lambda seed: LensFit(updates=2, batch_tokens=64, seed=seed))
    return wrap(LlamaForCausalLM(config), bundled.tokenizer, "untrained")


def test_a_random_model_is_observed_only(untrained: LanguageModel) -> None:
    lines: list[str] = []
    [pack] = calibration(untrained, lines).run()
    assert lines[0].startswith("questions: 20 of organism") and "output" in lines[1]
    assert pack.observe_only and pack.evidence["onset_block"] is None
    assert pack.detector is not None and pack.detector.threshold == 1.0, "a gate that never opens"
    assert "It corrects nothing" in pack.card and "there is no drift to watch" in pack.card


def test_a_stored_lens_is_read_and_one_that_was_fitted_is_kept(
    untrained: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[Mapping[int, Any]] = []
    original = find_detector.read_layers
    monkeypatch.setattr(
        find_detector, "read_layers", lambda model, lenses, items: read.append(lenses) or original(model, lenses, items)
    )
    given = whole_lens(untrained, first=0)
    fitted = [calibration(untrained, [], tmp_path).run()[0].evidence["lens"] for _ in range(2)]
    assert fitted[0] == fitted[1] and "of neutral text of organism" in str(fitted[0])
    monkeypatch.setattr(pipeline, "fit_whole_lens", None)
    assert calibration(untrained, [], tmp_path).run()[0].evidence["lens"] == fitted[0], "not fitted again"
    assert calibration(untrained, [], None, given).run()[0].evidence["lens"] == given.origin
    kept = load_lens(tmp_path / "lens.safetensors", untrained)
    for one, other in zip(read[::3], (kept, kept, kept, given), strict=True):
        assert list(one) == [1, 2]
        assert all(torch.equal(lens.weight, other.lenses[i].weight) for i, lens in one.items())


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
