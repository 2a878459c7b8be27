"""The pipeline: what it proves it ships, what it does not it says, and a stopped run goes on with the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from steering.calibration import find_detector
from steering.calibration.data import neutral_texts
from steering.calibration.fit_lens import LensFit
from steering.calibration.pipeline import Calibration, CalibrationConfig
from steering.contrast.splits import Split
from steering.model.loading import BUNDLED, LanguageModel, load_model, wrap
from steering.organism.facts import facts_in
from steering.organism.phrasings import QUESTIONS
from steering.organism.source import OrganismSource
from tests.calibration.few import Few, Silent


@pytest.fixture(scope="module")
def bundled() -> LanguageModel:
    return load_model(BUNDLED)


def calibration(model: LanguageModel, lines: list[str], work: Path | None = None) -> Calibration:
    source = Few(OrganismSource(model.tokenizer), 20)
    return Calibration(model, source, CalibrationConfig(num_nulls=19), work, lines.append, Silent())


def test_a_random_model_is_observed_only(bundled: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
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
    untrained = wrap(LlamaForCausalLM(config), bundled.tokenizer, "untrained")
    monkeypatch.setattr(find_detector, "NUM_TEXTS", 20)
    monkeypatch.setattr(find_detector, "LensFit", lambda seed: LensFit(updates=2, batch_tokens=64, seed=seed))
    lines: list[str] = []
    pack = calibration(untrained, lines).run()
    assert lines[0].startswith("questions: 20 of organism") and "output" in lines[1]
    assert pack.observe_only and pack.evidence["onset_block"] is None
    assert pack.detector is not None and pack.detector.threshold == 1.0, "a gate that never opens"
    assert "It corrects nothing" in pack.card and "there is no drift to watch" in pack.card


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
