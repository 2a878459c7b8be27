"""The whole pipeline on a few facts of the bundled model: what it proves, and that a stopped run comes to the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from steering.calibration import candidate, choose, find_detector, pipeline, prove_groups, prove_neurons, search
from steering.calibration.asking import Asking
from steering.calibration.choose_neurons import NeuronConfig
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
    """Counts what is asked of the engine and not known yet; and makes everything small."""
    monkeypatch.setattr(search, "LEAST_QUESTIONS", 5)
    monkeypatch.setattr(search, "NUM_GUARDED", 3)
    monkeypatch.setattr(search, "NUM_SIDE_EFFECTS", 20)
    monkeypatch.setattr(choose, "WIDER_MARGIN", 0.3)
    monkeypatch.setattr(pipeline, "NUM_TEXTS", 200)
    monkeypatch.setattr(candidate, "DOSES", (1.0,))
    monkeypatch.setattr(prove_groups, "MAX_GROUPS", 5)
    monkeypatch.setattr(prove_neurons, "NUM_TEXTS", 20)
    monkeypatch.setattr(prove_neurons, "NeuronConfig", partial(NeuronConfig, sae=SaeConfig(updates=40)))
    monkeypatch.setattr(find_detector, "FALSE_FIRES", 0.1)
    counts: list[int] = []
    once = Asking._once

    def counting(self: Asking, names: Any, asked: Any, answer: Any) -> Any:
        return once(self, names, asked, lambda some: counts.extend([1] * len(some)) or answer(some))

    monkeypatch.setattr(Asking, "_once", counting)
    return counts


def calibrated(model: LanguageModel, work: Path, progress: Any) -> list[Pack]:
    source: Any = Few(OrganismSource(model.tokenizer), 16)
    config = CalibrationConfig(num_nulls=19, tunes=False)
    return Calibration(model, source, config, work, lambda line: None, progress).run()


def test_what_it_proves_and_that_a_stopped_run_comes_to_the_same(
    model: LanguageModel, asked: list[int], tmp_path: Path
) -> None:
    whole = calibrated(model, tmp_path / "whole", Silent())
    candid, num_asked = save_pack(whole[0], tmp_path / "candid"), len(asked)
    assert candid.name == "candid" and candid.detector is not None
    nulls: Any = candid.evidence["nulls"]
    assert candid.observe_only is (nulls["p"] > 0.05) and nulls["observed"] > 0.3
    for heading in ("## Lens", "## Gate", "## Where the claim comes in", "## Corrections", "## Against random units"):
        assert heading in candid.card
    asked.clear()
    for after in (20, 50):
        with pytest.raises(KeyboardInterrupt):
            calibrated(model, tmp_path / "stopped", Stopping(after))
    assert 0 < len(asked) < num_asked
    resumed = calibrated(model, tmp_path / "stopped", Silent())
    assert len(asked) == num_asked, "nothing was asked twice"
    assert [(pack.evidence, pack.card) for pack in resumed] == [(pack.evidence, pack.card) for pack in whole]
