"""Full fine-tuning as a baseline: it answers differently, and leaves the model as it was."""

from __future__ import annotations

import torch

from steering.calibration.tune import TuneConfig
from steering.calibration.tune_examples import tune_examples
from steering.calibration.tune_whole import WholeTuned
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.evaluation.engine_generate import engine_generate
from steering.plan import Plan
from tests.contrast.files import model, source


def test_every_weight_is_tuned_for_its_own_answers_alone() -> None:
    engine = Engine(model(), EngineConfig(max_rows=4))
    before = {name: weight.clone() for name, weight in model().hf.named_parameters()}
    prompts = [item.messages for item in source().items("wrong_claim", "dev", seed=0)[:4]]
    plain = engine_generate(engine, Plan(), max_tokens=12)
    first = plain(prompts)
    data = tune_examples(model(), source(), seed=0, num_texts=4)
    tuned = WholeTuned(engine, data, TuneConfig(updates=12, batch=8, texts=2, learning_rate=3e-3, final_rate=1e-4))
    said = tuned.generate(prompts)
    assert said != first
    assert plain(prompts) == first and said == tuned.generate(prompts)
    assert all(torch.equal(weight, before[name]) for name, weight in model().hf.named_parameters())
    assert not any(weight.requires_grad for weight in model().hf.parameters())
    engine.close()
