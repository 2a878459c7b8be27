"""Find the detector: which early layer is watched, and how much drift it takes to open a gate (METHODS 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steering.calibration.asking import Asking
from steering.calibration.candidate import Candidate, Corrections, Variant, plan_of
from steering.calibration.card import layer_rows
from steering.calibration.data import harmless_items, pressured_items
from steering.calibration.find_drift import GAP, find_onset, read_layers
from steering.calibration.fit_lens import LensFit, States, fit_lenses
from steering.calibration.head_groups import groups_from
from steering.calibration.threshold import conformal_threshold, false_fire_spread
from steering.contrast.item import Item
from steering.contrast.source import Source
from steering.errors import CalibrationError
from steering.evaluation.core import evaluate
from steering.evaluation.report import markdown_table
from steering.evaluation.stats import auroc
from steering.lens import LogitLens
from steering.lens_file import WholeLens
from steering.model.loading import LanguageModel
from steering.plan import Detector, Plan

FALSE_FIRES = 0.02
"""Of the answers of each harmless class. Few questions make most of them: over others the rate is up to thrice that."""
RAISED = (0.10, 0.02, 0.005)
"""Shares of right corrections that may fire: thresholds to choose among where they lie above the harmless classes'. An
early layer that holds on to what was answered reads a right correction as it reads pressure."""
CANDIDATES, COVERED = (64, 128, 256, 512), 0.95
"""Sizes of the candidate set, and how often the early first choice should be in it."""

Log = Callable[[str], None]
Evidence = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What is watched."""

    detector: Detector
    """Its threshold is the lowest that keeps harmless answers alone."""
    thresholds: tuple[float, ...]
    """That and higher ones, ascending."""
    evidence: Evidence


@dataclass(frozen=True)
class Drift:
    """What the early layers read under pressure, against what the output says."""

    best: Detector
    """On the layer that reads the truth most often; its gate never opens."""
    early: tuple[Detector, ...]
    """On every layer that reads it by `GAP` more often than the output says it, thresholds still open; none without
    drift."""
    evidence: Evidence


def fit_whole_lens(
    model: LanguageModel, source: Source, states: States, seed: int, checkpoint: Path | None = None
) -> WholeLens:
    lenses = fit_lenses(states, model.layout.unembed, LensFit(seed=seed), checkpoint=checkpoint)
    text = f"{source.name} ({source.digest[:12]})"
    origin = f"fitted on {len(states.final)} tokens of neutral text of {text}, seed {seed}"
    return WholeLens(lenses, model.name, model.fingerprint, origin)


def find_drift(model: LanguageModel, source: Source, states: States, lens: WholeLens, seed: int, log: Log) -> Drift:
    """The candidate set is large enough that the best layer's own first choice is mostly in it."""
    items, unembed = pressured_items(source, "fit", seed=seed, per_question=2), model.layout.unembed
    tuned = lens.on(model)
    reads = {
        "tuned": read_layers(model, tuned, items),
        "logit": read_layers(model, {layer: LogitLens(layer) for layer in tuned}, items),
        "control": read_layers(model, fit_lenses(_shuffled(states, seed), unembed, LensFit(seed=seed)), items),
    }
    layers = layer_rows(reads)
    log(markdown_table(("layer", *reads), layers))
    best, onset = reads["tuned"].best_layer, find_onset(reads["tuned"], [item.question_id for item in items])
    coverage = {k: reads["tuned"].top_is_candidate(best, k) for k in CANDIDATES}
    num_candidates = next((k for k in CANDIDATES if coverage[k] >= COVERED), CANDIDATES[-1])
    log(f"best layer {best}, onset block {onset}; its first choice among the output's candidates: {coverage}")
    said = reads["tuned"].top_is_truth(reads["tuned"].output)
    detectors = {layer: Detector(lens, threshold=1.0, num_candidates=num_candidates) for layer, lens in tuned.items()}
    return Drift(
        detectors[best],
        tuple(
            detector
            for layer, detector in detectors.items()
            if onset is not None and reads["tuned"].top_is_truth(layer) >= said + GAP
        ),
        {
            "lens": lens.origin,
            "layers": layers,
            "best_layer": best,
            "onset_block": onset,
            "early_top_is_candidate": round(coverage[num_candidates], 4),
        },
    )


def find_detector(
    asking: Asking, source: Source, early: Sequence[Detector], corrections: Corrections, seed: int, log: Log
) -> Found:
    """The layer to watch: behind its gate, setting every group above it restores most of the truth on `fit` questions.

    Neither the layer that reads the truth best nor the one whose gate fires most need be it: what a layer has not
    computed yet, copying for instance, looks like drift and drives its threshold up, and a late one leaves little to
    correct.
    """
    pressured, caving = pressured_items(source, "fit", seed=seed, per_question=2), caving_items(asking, source, seed)
    harmless = harmless_items(source, seed)
    tried = []
    for shut in early:
        scores = {name: _max_drifts(asking, shut, items) for name, items in harmless.items()}
        limits = {name: _threshold(name, some) for name, some in scores.items()}
        detector = replace(shut, threshold=max(limits.values()))
        all_above = Candidate(
            tuple(groups_from(asking.model.layout, shut.lens.layer)), Variant(threshold=detector.threshold)
        )
        restored = asking.probabilities([(plan_of(all_above, corrections, detector), pressured)])[0]
        caved = np.array(_max_drifts(asking, shut, caving))
        tried.append((restored, detector, limits, caved, np.array(scores["neutral"])))
    rows = [
        (str(d.lens.layer), *(f"{t:.3f}" for t in limits.values()), f"{(caved > d.threshold).mean():.3f}",
         f"{auroc(caved, neutral):.3f}", f"{restored:.3f}")
        for restored, d, limits, caved, neutral in tried
    ]  # fmt: skip
    log(markdown_table(("layer", *harmless, "caving answers that fire", "AUROC", "P(truth)"), rows))
    _, chosen, limits, _, _ = max(tried, key=lambda one: one[0])
    classes = {name: _class(items, limits[name]) for name, items in harmless.items()}
    return Found(
        chosen,
        (chosen.threshold, *_raised(asking, source, chosen, seed)),
        {
            "false_fires": FALSE_FIRES,
            "early_layer": chosen.lens.layer,
            "detectors": rows,
            "num_caving": len(caving),
            "classes": classes,
        },
    )


def caving_items(asking: Asking, source: Source, seed: int) -> list[Item]:
    """Those about `fit` questions at which the model repeats the wrong claim."""
    pressured = pressured_items(source, "fit", seed=seed, per_question=2)
    return [graded.item for graded in evaluate(pressured, asking.generate(Plan())) if graded.caved]


def _threshold(name: str, scores: Sequence[float]) -> float:
    try:
        return conformal_threshold(scores, FALSE_FIRES)
    except ValueError as error:
        raise CalibrationError(f"no gate can be set on {name} questions: {error}. Bring more questions.") from error


def _class(items: Sequence[Item], threshold: float) -> Mapping[str, object]:
    """Answers about one question are no independent draws: the spread is that of as many answers as questions, which
    is never narrower."""
    n = len({item.question_id for item in items})
    return {
        "answers": len(items),
        "questions": n,
        "threshold": threshold,
        "spread": [round(rate, 4) for rate in false_fire_spread(n, FALSE_FIRES)],
    }


def _raised(asking: Asking, source: Source, detector: Detector, seed: int) -> list[float]:
    """Higher thresholds, ascending, at which right corrections seldom fire."""
    items = source.items("right_correction", "fit", seed=seed, per_question=2, phrasings=source.phrasings)
    scores = _max_drifts(asking, detector, items)
    levels = {conformal_threshold(scores, rate) for rate in RAISED if len(scores) * rate >= 1}
    return sorted(level for level in levels if detector.threshold < level < 1.0)


def _max_drifts(asking: Asking, detector: Detector, items: Sequence[Item]) -> list[float]:
    """Score of each answer: the largest drift of its sampled positions."""
    observing = asking.generate(Plan("observe", detector=detector))
    return [graded.reply.max_drift or 0.0 for graded in evaluate(items, observing)]


def _shuffled(states: States, seed: int) -> States:
    """Early states of other tokens: a lens fitted on them reads nothing from the layer."""
    order = torch.randperm(len(states.final), generator=torch.Generator().manual_seed(seed))
    return States(states.early[:, order], states.final)
