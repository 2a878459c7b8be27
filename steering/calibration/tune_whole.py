"""Full fine-tuning: every weight trained on the same data. A baseline, which no request can have to itself."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from steering.calibration.data import ANSWER_LIMIT
from steering.calibration.tune import TuneConfig, train
from steering.calibration.tune_data import TuneData
from steering.calibration.tune_parameters import under_training
from steering.engine.engine import Engine
from steering.evaluation.core import Prompt, Reply
from steering.evaluation.engine_generate import engine_generate
from steering.plan import Plan


class WholeTuned:
    """Answers of the model as all its weights would become. They are kept beside the model's own."""

    def __init__(self, engine: Engine, data: TuneData, config: TuneConfig) -> None:
        self._engine = engine
        with under_training(engine.model, None) as trained:
            train(engine.model, trained, data, config)
            self._weights: list[Tensor] = [part.parameter.data for part in trained]

    def generate(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """Greedy; the model is as it was afterwards."""
        with under_training(self._engine.model, None) as trained:
            for part, weight in zip(trained, self._weights, strict=True):
                part.parameter.data = weight
            return engine_generate(self._engine, Plan(), max_tokens=ANSWER_LIMIT)(prompts)
