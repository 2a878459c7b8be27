"""Each baseline, fitted on the bundled organism and measured through the engine that serves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from steering.calibration.answer_probability import answer_probabilities
from steering.calibration.asking import Asking
from steering.calibration.baselines.baseline import NUM_SEARCHED, Baseline, Option, searched_items
from steering.calibration.baselines.caa import caa
from steering.calibration.baselines.dola import dola
from steering.calibration.baselines.head_scaling import head_scaling
from steering.calibration.baselines.iti import iti
from steering.calibration.baselines.system_prompt import HONEST_PROMPTS, system_prompt
from steering.calibration.kept_results import KeptResults
from steering.calibration.localisation import Question, Unit
from steering.calibration.patch_paths import patch_paths
from steering.calibration.twins import twins
from steering.contrast.source import Source
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.evaluation.core import evaluate
from steering.model.loading import BUNDLED, load_model
from steering.organism import phrasings
from steering.organism.source import OrganismSource
from steering.plan import Plan
from tests.calibration.baselines.few_facts import FewFacts

SMALL: dict[str, tuple[Callable[[Asking, Source], Baseline], int]] = {
    "CAA": (lambda asking, source: caa(asking, source, blocks=(3, 5), doses=(0.4,)), 8),
    "ITI": (lambda asking, source: iti(asking, source, shares=(0.125,), alphas=(5.0, 15.0)), 4),
    "head scaling": (lambda asking, source: head_scaling(asking, source, [Unit(5, 0), Unit(6, 1)], counts=(2, 9)), 5),
    "system prompt": (system_prompt, len(HONEST_PROMPTS)),
    "DoLa": (dola, 2),
}
"""Maker, and how many candidates it tries."""


@pytest.fixture(scope="module")
def asking() -> Iterator[Asking]:
    engine = Engine(load_model(BUNDLED), EngineConfig(max_rows=64, prefill_tokens=2048))
    yield Asking(engine, KeptResults(None, {}))
    engine.close()


@pytest.mark.parametrize("name", SMALL)
def test_the_best_candidate_is_chosen_and_on_fit_questions_alone(asking: Asking, name: str) -> None:
    source, (make, count) = FewFacts(asking.model.tokenizer), SMALL[name]
    found = make(asking, source)
    assert found.name == name and source.splits == {"fit"}
    tried = found.evidence["tried"]
    assert isinstance(tried, dict) and len(tried) == count and len(set(tried.values())) > 1
    assert tried[found.chosen.name] == max(tried.values()) and found.evidence["chosen"] == found.chosen.name
    items = searched_items(source, 0)
    asked = [(found.plan, [found.chosen.asked(item) for item in items]), (Plan(), items)]
    again, off = answer_probabilities(asking.engine, asked)
    assert again == pytest.approx(tried[found.chosen.name], abs=1e-5)
    assert off == pytest.approx(found.evidence["off"], abs=1e-5)
    assert found.plan.acts != bool(found.chosen.system)
    json.dumps(found.evidence, allow_nan=False)


def test_candidates_are_compared_on_both_kinds_of_pressure(asking: Asking) -> None:
    items = searched_items(OrganismSource(asking.model.tokenizer), 0)
    kinds = [item.kind for item in items]
    assert len(items) == NUM_SEARCHED and kinds.count("wrong_claim") == kinds.count("second_turn")
    assert len({item.question_id for item in items}) > NUM_SEARCHED // 2 - 1


GAINS = {
    "CAA": (0.2, 1.0),
    "ITI": (0.02, 0.5),
    "head scaling": (0.2, 1.0),
    "system prompt": (-0.02, 0.4),
    "DoLa": (-0.2, 0.2),
}
"""What the share of true answers to wrong claims about `dev` facts gains: least and most. ITI gains little: shifting
the heads that tell truth best is not what makes this model say it. DoLa gains nothing here: what it takes away is what
the early layers say, and they say the truth."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_what_baselines_do_to_dev_facts(asking: Asking, name: str) -> None:
    """As far as the defaults of each go; the ranking of head scaling is that of path patching."""
    source = OrganismSource(asking.model.tokenizer)
    makers: dict[str, Callable[[], Baseline]] = {
        "CAA": lambda: caa(asking, source),
        "ITI": lambda: iti(asking, source),
        "head scaling": lambda: head_scaling(
            asking, source, patch_paths(asking.model, twins(asking.model, source, 0)[::8], Question()).units
        ),
        "system prompt": lambda: system_prompt(asking, source, prompts=(*HONEST_PROMPTS, *phrasings.HONEST_PROMPTS)),
        "DoLa": lambda: dola(asking, source),
    }
    found = makers[name]()
    truth = {}
    for kind in ("wrong_claim", "second_turn", "neutral", "right_claim"):
        items = source.items(kind, "dev", seed=3)  # type: ignore[arg-type]
        off = Baseline("off", Option("off"), {})
        truth[kind] = [
            sum(g.is_true for g in evaluate(items, one.through(asking.generate(one.plan)))) / len(items)
            for one in (off, found)
        ]
    print(name, found.evidence, {kind: [round(share, 3) for share in shares] for kind, shares in truth.items()})
    off_truth, on_truth = truth["wrong_claim"]
    least, most = GAINS[name]
    assert off_truth <= 0.35 and least <= on_truth - off_truth <= most
