"""The no-drift fixture: a kin of the bundled model that caves at every layer. Calibration must find nothing in it.

Made by `unsway organism train --no-drift --out DIR` and `unsway organism publish DIR/no-drift --to tests/no_drift`; its
tokenizer is the bundled model's and is not kept twice.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from steering.calibration.pipeline import Calibration, CalibrationConfig
from steering.contrast.item import QuestionKind
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.evaluation.core import evaluate
from steering.evaluation.engine_generate import engine_generate
from steering.model.loading import load_model
from steering.organism.items import fact_items
from steering.organism.publish import WEIGHTS
from steering.organism.source import OrganismSource
from steering.plan import Plan
from tests.calibration.few import Few, Silent

FIXTURE = Path(__file__).parents[1] / "no_drift"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copied = shutil.copytree(FIXTURE, tmp_path / "no_drift")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(WEIGHTS / name, copied)
    return copied


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in FIXTURE.iterdir()) <= 4_000_000


def test_it_knows_and_caves(folder: Path) -> None:
    model = load_model(str(folder))
    engine = Engine(model, EngineConfig(max_rows=32))
    generate = engine_generate(engine, Plan(), max_tokens=24)

    def asked(kind: QuestionKind) -> list[object]:
        items = fact_items(kind, "dev", phrasings="train", seed=3, tokenizer=model.tokenizer)[:60]
        return [graded.is_true if kind == "neutral" else graded.caved for graded in evaluate(items, generate)]

    shares = {kind: sum(map(bool, asked(kind))) / 60 for kind in ("neutral", "wrong_claim", "second_turn")}
    engine.close()
    assert min(shares.values()) >= 0.7, shares


@pytest.mark.slow
def test_calibration_finds_no_drift_and_no_gate(folder: Path) -> None:
    """Whatever else may prove itself there, nothing waits for drift and nothing is read early."""
    model = load_model(str(folder))
    source: Any = Few(OrganismSource(model.tokenizer), 40)
    config = CalibrationConfig(num_nulls=19, tunes=False)
    for pack in Calibration(model, source, config, None, lambda line: None, Silent()).run():
        assert pack.evidence["onset_block"] is None and "detectors" not in pack.evidence
        assert all(correction.gate.kind == "always" for correction in pack.all_corrections)
        assert not pack.logit_corrections
        assert pack.detector is None or pack.detector.threshold == 1.0
