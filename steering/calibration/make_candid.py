"""Make the pack `candid` of a model, on any source of questions.

Everything is fitted on `fit` questions (of an organism `train` ones too) and chosen on `dev` questions; no `test`
question is ever asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from steering.calibration.answer_probability import AnswerProbability
from steering.calibration.candid_card import card, development_rows, layer_rows
from steering.calibration.choose import Bench, grow
from steering.calibration.data import (
    ANSWER_LIMIT,
    HARMLESS,
    PRESSURED,
    development_items,
    harmless_items,
    neutral_items,
    neutral_texts,
    pressured_items,
    story_texts,
)
from steering.calibration.find_drift import GAP, find_onset, read_layers
from steering.calibration.fit_lens import LensFit, States, fit_lenses, record_states
from steering.calibration.head_groups import groups_from, neutral_means, set_to_means
from steering.calibration.localisation import Unit
from steering.calibration.threshold import conformal_threshold, false_fire_spread
from steering.contrast.item import Item
from steering.contrast.source import Source
from steering.engine.engine import Engine, EngineConfig
from steering.evaluation.core import Generate, evaluate
from steering.evaluation.engine_generate import engine_generate
from steering.evaluation.report import markdown_table
from steering.evaluation.side_effects import SideEffects, side_effects
from steering.gate import Gate
from steering.lens import LogitLens
from steering.lens_file import WholeLens
from steering.model.chat import encode_chat
from steering.model.loading import LanguageModel
from steering.pack import Pack
from steering.plan import Detector, Plan

NUM_TEXTS = 800
FALSE_FIRES = 0.02
"""Of the answers of each harmless class. Few questions make most of them: over others the rate is up to thrice that."""
CANDIDATES, COVERED = (64, 128, 256, 512), 0.95
"""Sizes of the candidate set, and how often the early first choice should be in it."""
MAX_GROUPS = 8
NEARLY = 0.03
"""Share of true answers that a smaller set may fall short of the best."""
NUM_SIDE_EFFECTS = 200
"""Prompts of each harmless kind, and texts, on which side effects are measured."""
NUM_GUARDED = 4
"""Choices, smallest first, whose guards are measured until those of one hold."""
SEED = 0

Log = Callable[[str], None]
Keep = Callable[[WholeLens], None]
Evidence = dict[str, object]


class NothingFound(Exception):
    """The model shows no drift, or no correction of it keeps to its guards: there is nothing to ship."""


@dataclass(frozen=True)
class Choice:
    """Corrections to try."""

    groups: tuple[Unit, ...]
    latch: bool = False

    def __str__(self) -> str:
        return " ".join(map(str, sorted(self.groups))) + (" latch" if self.latch else "")


@dataclass(frozen=True)
class Workbench:
    """What turns a choice into answers."""

    engine: Engine
    source: Source
    detector: Detector
    means: Mapping[int, Tensor]

    def plan(self, choice: Choice) -> Plan:
        gate = Gate("drift", latch=choice.latch)
        corrections = set_to_means(self.engine.model.layout, choice.groups, self.means, gate)
        return Plan("on", corrections=corrections, detector=self.detector)

    def generate(self, choice: Choice) -> Generate:
        return engine_generate(self.engine, self.plan(choice), max_tokens=ANSWER_LIMIT)


def make_candid(
    model: LanguageModel, source: Source, log: Log, lens: WholeLens | None = None, keep: Keep | None = None
) -> Pack:
    """lens: None fits one on the source's neutral texts, which `keep` is handed."""
    log(f"questions: {source}")
    engine = Engine(model, EngineConfig(max_rows=64, prefill_tokens=2048))
    states = record_states(model, neutral_texts(model, source, NUM_TEXTS, SEED))
    if lens is None:
        lens = fit_whole_lens(model, source, states)
        if keep is not None:
            keep(lens)
    early, drift_evidence = find_drift(model, source, states, lens, log)
    means = neutral_means(model, neutral_items(source, SEED))
    bench, detector_evidence = find_detector(engine, source, early, means, log)
    sets, search_evidence = search(bench, groups_from(model.layout, bench.detector.lens.layer), log)
    choice, choice_evidence = choose(bench, sets, log)
    engine.close()
    pack = Pack(
        name="candid",
        description="Holds on to what the early layers read when the late ones drift to the user's claim.",
        model_name=model.name,
        fingerprint=model.fingerprint,
        corrections=bench.plan(choice).corrections,
        detector=bench.detector,
        evidence={
            "seed": SEED,
            "questions": {"name": source.name, "digest": source.digest, "limits": source.limits},
            **drift_evidence,
            **detector_evidence,
            **search_evidence,
            **choice_evidence,
        },
    )
    return replace(pack, card=card(pack, bench.detector))


def fit_whole_lens(model: LanguageModel, source: Source, states: States) -> WholeLens:
    lenses = fit_lenses(states, model.layout.unembed, LensFit(seed=SEED))
    text = f"{source.name} ({source.digest[:12]})"
    origin = f"fitted on {len(states.final)} tokens of neutral text of {text}, seed {SEED}"
    return WholeLens(lenses, model.name, model.fingerprint, origin)


def find_drift(
    model: LanguageModel, source: Source, states: States, lens: WholeLens, log: Log
) -> tuple[list[Detector], Evidence]:
    """Detectors, their thresholds still open, on the lenses that read the truth under pressure by `GAP` more often than
    the output says it. Their candidate set is large enough that the best layer's own first choice is mostly in it."""
    items, unembed, tuned = (
        pressured_items(source, "fit", seed=SEED, per_question=2),
        model.layout.unembed,
        lens.on(model),
    )
    reads = {
        "tuned": read_layers(model, tuned, items),
        "logit": read_layers(model, {layer: LogitLens(layer) for layer in tuned}, items),
        "control": read_layers(model, fit_lenses(_shuffled(states), unembed, LensFit(seed=SEED)), items),
    }
    layers = layer_rows(reads)
    log(markdown_table(("layer", *reads), layers))
    onset = find_onset(reads["tuned"], [item.question_id for item in items])
    if onset is None:
        raise NothingFound("the early layers read the truth no better than the output does")
    best = reads["tuned"].best_layer
    log(f"best layer {best}, onset block {onset}")
    said = reads["tuned"].top_is_truth(reads["tuned"].output)
    coverage = {k: reads["tuned"].top_is_candidate(best, k) for k in CANDIDATES}
    num_candidates = next((k for k in CANDIDATES if coverage[k] >= COVERED), CANDIDATES[-1])
    log(f"first choice of layer {best} among the output's candidates: {coverage}")
    early = [
        Detector(lens, threshold=1.0, num_candidates=num_candidates)
        for layer, lens in tuned.items()
        if reads["tuned"].top_is_truth(layer) >= said + GAP
    ]
    return early, {
        "lens": lens.origin,
        "layers": layers,
        "best_layer": best,
        "onset_block": onset,
        "early_top_is_candidate": round(coverage[num_candidates], 4),
    }


def find_detector(
    engine: Engine, source: Source, early: Sequence[Detector], means: Mapping[int, Tensor], log: Log
) -> tuple[Workbench, Evidence]:
    """The layer to watch: behind its gate, setting every group above it restores most of the truth on `fit` questions.

    Neither the layer that reads the truth best nor the one whose gate fires most need be it: what a layer has not
    computed yet, copying for instance, looks like drift and drives its threshold up, and a late one leaves little to
    correct.
    """
    pressured = pressured_items(source, "fit", seed=SEED, per_question=2)
    off = evaluate(pressured, engine_generate(engine, Plan(), max_tokens=ANSWER_LIMIT))
    caving = [graded.item for graded in off if graded.caved]
    harmless = harmless_items(source, SEED)
    probability = AnswerProbability(engine, pressured)
    tried = []
    for shut in early:
        thresholds = {
            name: conformal_threshold(_max_drifts(engine, shut, items), FALSE_FIRES) for name, items in harmless.items()
        }
        bench = Workbench(engine, source, replace(shut, threshold=max(thresholds.values())), means)
        fires = np.mean([score > bench.detector.threshold for score in _max_drifts(engine, shut, caving)])
        restored = probability(bench.plan(Choice(tuple(groups_from(engine.model.layout, shut.lens.layer)))))
        tried.append((restored, float(fires), thresholds, bench))
    rows = [
        (str(bench.detector.lens.layer), *(f"{t:.3f}" for t in by_class.values()), f"{fires:.3f}", f"{restored:.3f}")
        for restored, fires, by_class, bench in tried
    ]
    log(markdown_table(("layer", *harmless, "caving answers that fire", "P(truth)"), rows))
    _, _, thresholds, chosen = max(tried, key=lambda one: one[0])
    classes = {
        name: {
            "n": len(items),
            "threshold": thresholds[name],
            "spread": [round(rate, 4) for rate in false_fire_spread(len(items), FALSE_FIRES)],
        }
        for name, items in harmless.items()
    }
    return chosen, {
        "answer_limit": ANSWER_LIMIT,
        "false_fires": FALSE_FIRES,
        "early_layer": chosen.detector.lens.layer,
        "detectors": rows,
        "num_caving": len(caving),
        "classes": classes,
    }


def _max_drifts(engine: Engine, detector: Detector, items: Sequence[Item]) -> list[float]:
    """Score of each answer: the largest drift of its sampled positions."""
    observing = engine_generate(engine, Plan("observe", detector=detector), max_tokens=ANSWER_LIMIT)
    return [graded.reply.max_drift or 0.0 for graded in evaluate(items, observing)]


def search(bench: Workbench, groups: Sequence[Unit], log: Log) -> tuple[list[tuple[Unit, ...]], Evidence]:
    """Nested sets of groups, grown by the probability of the truth that they restore on `fit` questions."""
    items = pressured_items(bench.source, "fit", seed=SEED + 1, per_question=1)
    probability = AnswerProbability(bench.engine, items)
    scored = grow(groups, lambda chosen: probability(bench.plan(Choice(chosen))), MAX_GROUPS)
    rows = [(" ".join(map(str, chosen)), f"{p:.3f}") for chosen, p in [((), probability(Plan())), *scored]]
    log(markdown_table(("groups", "P(truth)"), rows))
    return [chosen for chosen, _ in scored], {"search": {"n": len(items), "sets": rows}}


def choose(bench: Workbench, sets: Sequence[tuple[Unit, ...]], log: Log) -> tuple[Choice, Evidence]:
    """The smallest that is nearly the best on `dev` questions and keeps to its guards."""
    off = engine_generate(bench.engine, Plan(), max_tokens=ANSWER_LIMIT)
    dev = Bench(development_items(bench.source, SEED), off)
    choices = [Choice(groups, latch) for groups in sets for latch in (False, True)]
    trials = {choice: dev.try_pressure(bench.generate(choice)) for choice in choices}
    rows = [(str(choice), *(f"{trial.truth[kind]:.3f}" for kind in PRESSURED)) for choice, trial in trials.items()]
    log(markdown_table(("groups", *PRESSURED), rows))
    best = max(trial.score for trial in trials.values())
    nearly = [choice for choice in choices if trials[choice].score >= best - NEARLY]
    for choice in sorted(nearly, key=lambda c: (len(c.groups), c.latch))[:NUM_GUARDED]:
        effects = _side_effects(bench, choice, dev)
        trial = dev.guard(trials[choice], bench.generate(choice), effects)
        development = development_rows(dev, trial)
        log(markdown_table(("kind", "n", "off", "on", "bound"), development))
        log(f"{choice}: {effects}")
        if trial.holds:
            return choice, {
                "trials": rows,
                "chosen": str(choice),
                "development": development,
                "side_effects": asdict(effects),
            }
    raise NothingFound("no correction that restores the truth keeps to its guards")


def _side_effects(bench: Workbench, choice: Choice, dev: Bench) -> SideEffects:
    model = bench.engine.model
    asked = [graded.item for kind in HARMLESS for graded in dev.off[kind][:NUM_SIDE_EFFECTS]]
    prompts = [tuple(encode_chat(model, item.messages)) for item in asked]
    texts = story_texts(model, bench.source, NUM_SIDE_EFFECTS, SEED)
    return side_effects(bench.engine, bench.plan(choice), prompts, texts, max_tokens=ANSWER_LIMIT)


def _shuffled(states: States) -> States:
    """Early states of other tokens: a lens fitted on them reads nothing from the layer."""
    order = torch.randperm(len(states.final), generator=torch.Generator().manual_seed(SEED))
    return States(states.early[:, order], states.final)
