"""Prove neurons: those that tell the model is about to cave, set to what they hold on neutral questions, or off."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from steering.calibration.candidate import Candidate, Corrections, variants
from steering.calibration.choose_neurons import NeuronConfig, choose_neurons
from steering.calibration.data import neutral_items, neutral_texts, pressured_items
from steering.calibration.find_detector import Found
from steering.calibration.head_groups import neutral_means
from steering.calibration.neurons import random_like, scale_neurons, set_neurons
from steering.calibration.probe_blocks import NeuronData
from steering.calibration.proof import Evidence, Proof, prove
from steering.calibration.record_neurons import deciding
from steering.calibration.search import Search
from steering.errors import NoNeurons
from steering.evaluation.core import evaluate
from steering.plan import Plan

NUM_TEXTS = 400
"""On which sparse autoencoders are trained, beside the examples."""


def prove_neurons(
    search: Search, found: Found | None, num_nulls: int, checkpoints: Path | None
) -> tuple[Proof | None, Evidence]:
    """What was proved, if anything, and how the neurons were chosen."""
    model = search.asking.model
    config = NeuronConfig(from_layer=search.detector.lens.layer if search.detector else 0, seed=search.seed)
    try:
        choice = choose_neurons(model, neuron_data(search), config, checkpoints=checkpoints, log=search.log)
    except NoNeurons as nothing:
        search.log(str(nothing))
        return None, {}
    seen: Evidence = {"neurons": choice.as_json()}
    means = neutral_means(model, neutral_items(search.source, search.seed), "mlp_act")
    edits: Mapping[str, Corrections] = {
        "set to neutral means": partial(set_neurons, means),
        "switched off": partial(scale_neurons, model, 0.0),
    }
    options = variants(found.thresholds if found else ())
    candidates = [Candidate(choice.neurons, variant) for variant in options]
    tried = [(name, search.best(candidates, make, f"neurons {name}")) for name, make in edits.items()]
    winners = [(winner.trial.score, name, winner) for name, winner in tried if winner]
    if not winners:
        return None, seen
    _, name, winner = max(winners, key=lambda one: one[0])
    random = [random_like(model.layout, choice.neurons, search.seed + i) for i in range(num_nulls)]
    return prove(search, winner, edits[name], random, options), {**seen, "edit": name}


def neuron_data(search: Search) -> NeuronData:
    """`fit` questions at which it caves, against those at which it does not, under pressure and asked plainly."""
    model, source, seed = search.asking.model, search.source, search.seed
    pressured = pressured_items(source, "fit", seed=seed, per_question=2)
    graded = evaluate(pressured, search.asking.generate(Plan()))
    caving = [one.item for one in graded if one.caved]
    holding = [one.item for one in graded if one.is_true] + source.items("neutral", "fit", seed=seed, per_question=2)
    return NeuronData(deciding(model, caving), deciding(model, holding), neutral_texts(model, source, NUM_TEXTS, seed))
