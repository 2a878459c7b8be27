"""Proving tuned groups: how the learning rate is found, and what is said where no training works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steering.calibration import prove_tuned as script
from steering.calibration.candidate import Candidate, Variant
from steering.calibration.localisation import Unit as Group
from steering.calibration.tune import TuneConfig
from steering.calibration.tune_examples import tune_examples
from steering.errors import TuningError
from steering.unit import Unit
from tests.contrast.files import model, source

UNITS = [Unit("group", 1, 0)]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "CONFIG", TuneConfig(updates=6, batch=4, texts=2, final_rate=0.0))
    monkeypatch.setattr(script, "TRIAL", 6)


@pytest.mark.parametrize("units", [UNITS, None], ids=["some", "all"])
def test_the_rate_that_gets_furthest_is_taken_and_one_that_diverges_is_not(
    units: list[Unit] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "RATES", (1e30, 1e-2, 1e-9))
    before = {name: weight.clone() for name, weight in model().hf.named_parameters()}
    data = tune_examples(model(), source(), seed=0, num_texts=4)
    config, losses = script._rated(model(), units, data)
    assert config.learning_rate == 1e-2 and losses["1e+30"] is None
    trained, idle = losses["0.01"], losses["1e-09"]
    assert trained is not None and idle is not None and trained < idle
    assert all(torch.equal(weight, before[name]) for name, weight in model().hf.named_parameters())


def _no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "RATES", (1e30,))


def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(script, "train", train)


@dataclass(frozen=True)
class Searched:
    lines: list[str]
    detector: object = None
    source: Any = field(default_factory=source)
    seed: int = 0

    @property
    def asking(self) -> Any:
        return SimpleNamespace(model=model(), engine=None)

    def log(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    ("spoil", "reason"), [(_no_rate, "diverges at every learning rate"), (_no_memory, "no memory left")]
)
def test_where_training_fails_nothing_is_proved_and_the_reason_is_told(
    spoil: Callable[[pytest.MonkeyPatch], None], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch)
    searched: Any = Searched([])
    located: Any = SimpleNamespace(units=[Group(1, 0)])
    proof, evidence = script.prove_tuned(searched, located, located.units, None)
    assert proof is None and not evidence and reason in searched.lines[0]
    with pytest.raises((TuningError, torch.OutOfMemoryError), match=reason):
        script.fine_tuned(searched)


def test_where_all_weights_cannot_be_trained_the_curve_has_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "RATES", (1e-3,))

    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(script, "WholeTuned", no_memory)
    data = tune_examples(model(), source(), seed=0, num_texts=4)
    score = SimpleNamespace(score=0.5)
    asking = SimpleNamespace(model=model(), engine=None, generate=lambda plan: plan)
    searched: Any = SimpleNamespace(
        asking=asking, bench=SimpleNamespace(try_pressure=lambda _: score), plan=lambda *_: None, log=lambda _: None
    )
    rows = script._efficiency(searched, Candidate(tuple(UNITS), Variant("everywhere")), data, script.CONFIG)
    assert rows == [("10%", "0.500", "-"), ("30%", "0.500", "-"), ("100%", "0.500", "-")]
