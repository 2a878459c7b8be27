"""The whole pipeline on a few facts of the bundled model: what it proves, and that a stopped run comes to the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steering.calibration import candidate, choose, find_detector, pipeline, prove_groups, prove_neurons, search
from steering.calibration.asking import Asking
from steering.calibration.pipeline import Calibration, CalibrationConfig
from steering.calibration.train_sae import SaeConfig
from steering.model.loading import BUNDLED, LanguageModel, load_model
from steering.organism.source import OrganismSource
from steering.pack import Pack, save_pack
from tests.calibration.few import Few, Silent

pytestmark = pytest.mark.slow


class Stopping(Silent):
    """Stops the run where a killed process would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model(BUNDLED)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts went to the engine, batch by batch; and everything small."""
    monkeypatch.setattr(search, "LEAST_QUESTIONS", 5)
    monkeypatch.setattr(search, "NUM_GUARDED", 3)
    monkeypatch.setattr(choose, "WIDER_MARGIN", 0.3)
    monkeypatch.setattr(pipeline, "NUM_TEXTS", 200)
    monkeypatch.setattr(candidate, "DOSES", (1.0,))
    monkeypatch.setattr(prove_groups, "MAX_GROUPS", 5)
    monkeypatch.setattr(search, "NUM_SIDE_EFFECTS", 20)
    monkeypatch.setattr(prove_neurons, "NUM_TEXTS", 20)
    monkeypatch.setattr(prove_neurons, "NeuronConfig", _small_neurons)
    monkeypatch.setattr(find_detector, "FALSE_FIRES", 0.1)
    counts: list[int] = []
    original = Asking._once

    def counting(self: Asking, what: Any, answer: Any) -> Any:
        def answered() -> Any:
            counts.append(1)
            return answer()

        return original(self, what, answered)

    monkeypatch.setattr(Asking, "_once", counting)
    return counts


def _small_neurons(**options: Any) -> Any:
    from steering.calibration.choose_neurons import NeuronConfig

    return NeuronConfig(sae=SaeConfig(updates=40), **options)


def calibrated(model: LanguageModel, work: Path, progress: Any) -> list[Pack]:
    source: Any = Few(OrganismSource(model.tokenizer), 16)
    config = CalibrationConfig(num_nulls=19, tunes=False)
    return Calibration(model, source, config, work, lambda line: None, progress).run()


def test_a_stopped_run_comes_to_the_same(model: LanguageModel, asked: list[int], tmp_path: Path) -> None:
    whole = calibrated(model, tmp_path / "whole", Silent())
    num_asked = len(asked)
    asked.clear()
    for after in (60, 90):
        with pytest.raises(KeyboardInterrupt):
            calibrated(model, tmp_path / "stopped", Stopping(after))
    resumed = calibrated(model, tmp_path / "stopped", Silent())
    assert len(asked) == num_asked, "nothing was asked twice"
    assert [pack.evidence for pack in resumed] == [pack.evidence for pack in whole]
    assert [pack.card for pack in resumed] == [pack.card for pack in whole]


def test_it_proves_groups_and_says_how(model: LanguageModel, asked: list[int], tmp_path: Path) -> None:
    candid = calibrated(model, tmp_path, Silent())[0]
    save_pack(candid, tmp_path / "saved")
    assert candid.name == "candid" and candid.detector is not None
    assert candid.observe_only is (candid.evidence["adjusted_p"] > 0.05)  # type: ignore[operator]
    for heading in ("## Lens", "## Gate", "## Where the claim comes in", "## Corrections", "## Against random units"):
        assert heading in candid.card
