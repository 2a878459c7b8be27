"""Prove tuned: the weights of a few groups, trained to hold and to give in where each is right (METHODS 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch

from steering.calibration.candidate import Candidate, Variant
from steering.calibration.localisation import Localisation
from steering.calibration.localisation import Unit as Group
from steering.calibration.nulls import enough_others, random_sets
from steering.calibration.proof import Evidence, Proof, prove
from steering.calibration.search import Search
from steering.calibration.tune import TuneConfig, train, tune
from steering.calibration.tune_data import TuneData
from steering.calibration.tune_examples import tune_examples
from steering.calibration.tune_parameters import under_training
from steering.calibration.tune_whole import WholeTuned
from steering.correction import WeightCorrection
from steering.errors import NotFiniteLoss, TuningError
from steering.evaluation.core import Generate
from steering.evaluation.report import markdown_table
from steering.gate import Gate
from steering.model.loading import LanguageModel
from steering.unit import Unit

COUNTS = (1, 2, 4, 8, 16)
NUM_NULLS = 19
"""Random units that are tuned too, at most: each is a training."""
RATES = (3e-3, 3e-4, 3e-5)
TRIAL, LAST = 20, 5
"""Learning rates to begin with: the one whose loss is least in the LAST of TRIAL updates is taken. 3e-5 is SPT's."""
SHARES = (0.1, 0.3, 1.0)
"""Of the examples, for the curve of how much it takes."""
CONFIG = TuneConfig(updates=120, batch=32, texts=8, final_rate=1e-7)

_ALWAYS = Variant("everywhere")


@dataclass
class Tuner:
    """Trains each set of units once."""

    search: Search
    data: TuneData
    config: TuneConfig
    checkpoints: Path | None
    _made: dict[tuple[Unit, ...], WeightCorrection] = field(default_factory=dict)

    def __call__(self, units: Sequence[Unit], gate: Gate) -> tuple[WeightCorrection, ...]:
        key = tuple(sorted(units))
        if key not in self._made:
            folder = self.checkpoints and self.checkpoints / "-".join(map(str, key))[:200]
            edit = tune(self.search.asking.model, key, self.data, self.config, checkpoints=folder)
            self._made[key] = WeightCorrection("tuned", edit)
        return (self._made[key],)


def prove_tuned(
    search: Search, located: Localisation, pool: Sequence[Group], checkpoints: Path | None
) -> tuple[Proof | None, Evidence]:
    """Groups in the order of what patching them restores; what was proved of them, and the losses on the way.

    Whatever is watched plays no part: changed weights act always. Where training fails or memory runs out, nothing is
    proved, and the log says why.
    """
    try:
        return _prove_tuned(replace(search, detector=None), located, pool, checkpoints)
    except (TuningError, torch.OutOfMemoryError) as error:
        search.log(f"no weights are tuned: {error}")
        return None, {}


def fine_tuned(search: Search) -> tuple[Generate, Evidence]:
    """Answers of the model with every weight trained on the same examples: a baseline. Raises `TuningError`."""
    data = tune_examples(search.asking.model, search.source, seed=search.seed)
    config, losses = _rated(search.asking.model, None, data)
    tuned = WholeTuned(search.asking.engine, data, config)
    return tuned.generate, {"losses": losses, "chosen": f"{config.learning_rate:g}"}


def _prove_tuned(
    search: Search, located: Localisation, pool: Sequence[Group], checkpoints: Path | None
) -> tuple[Proof | None, Evidence]:
    data = tune_examples(search.asking.model, search.source, seed=search.seed)
    among = set(pool)
    ranking = [Unit("group", unit.layer, unit.index) for unit in located.units if unit in among]
    config, losses = _rated(search.asking.model, ranking[:4], data)
    tuner = Tuner(search, data, config, checkpoints)
    sets = [tuple(sorted(ranking[:count])) for count in COUNTS if enough_others(ranking, ranking[:count])]
    winner = search.best([Candidate(units, _ALWAYS) for units in sets], tuner, "tuned groups", nested=False)
    seen: Evidence = {"tuning": {"losses": losses, "rate": config.learning_rate, "updates": config.updates}}
    if winner is None:
        return None, seen
    random = random_sets(sorted(ranking), winner.candidate.units, search.seed, NUM_NULLS)
    proof = prove(search, winner, tuner, random, [_ALWAYS], at_once=1)
    seen["tuning"]["efficiency"] = _efficiency(search, winner.candidate, data, config)
    return proof, seen


def _efficiency(search: Search, chosen: Candidate, data: TuneData, config: TuneConfig) -> list[tuple[str, ...]]:
    """(share of the examples, truth under pressure with the units tuned, with all weights tuned), the weaker kind; a
    dash where that training fails, as that of all weights may for want of memory."""

    @cache
    def whole_config() -> TuneConfig:
        return _rated(search.asking.model, None, data)[0]

    def part(share: float) -> Generate:
        tuner = Tuner(search, data, replace(config, share=share), None)
        return search.asking.generate(search.plan(chosen, tuner))

    def whole(share: float) -> Generate:
        return WholeTuned(search.asking.engine, data, replace(whole_config(), share=share)).generate

    def truth(answer: Callable[[float], Generate], share: float) -> str:
        try:
            return f"{search.bench.try_pressure(answer(share)).score:.3f}"
        except (TuningError, torch.OutOfMemoryError) as error:
            search.log(f"{share:.0%} of the examples: {error}")
            return "-"

    rows: list[tuple[str, ...]] = [(f"{share:.0%}", truth(part, share), truth(whole, share)) for share in SHARES]
    search.log(markdown_table(("examples", "these units", "all weights"), rows))
    return rows


def _rated(
    model: LanguageModel, units: Sequence[Unit] | None, data: TuneData
) -> tuple[TuneConfig, dict[str, float | None]]:
    """The settings with the rate at which a short trial gets furthest, and the loss that each reached: None where it
    diverged. units: None for every weight. Raises `TuningError` where they all did."""
    reached = dict[float, float]()
    for rate in RATES:
        trial = replace(CONFIG, updates=TRIAL, learning_rate=rate)
        with under_training(model, units) as trained:
            try:
                losses = train(model, trained, data, trial)
            except NotFiniteLoss:
                continue
        reached[rate] = sum(one.reply + CONFIG.kl_weight * one.divergence for one in losses[-LAST:]) / LAST
    if not reached:
        raise TuningError(f"the loss diverges at every learning rate tried: {', '.join(f'{r:g}' for r in RATES)}.")
    best = min(reached, key=reached.__getitem__)
    found = {f"{rate:g}": round(reached[rate], 4) if rate in reached else None for rate in RATES}
    return replace(CONFIG, learning_rate=best), found
