"""Pipeline: from a model and questions to packs that say what was proved about them, or that nothing was.

Everything is fitted on `fit` questions (of an organism `train` ones too) and chosen on `dev` questions. No `test`
question is asked here. A run that was stopped is started again with the same folder: what it had measured is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from steering.calibration.asking import Asking
from steering.calibration.card import card
from steering.calibration.choose import Bench
from steering.calibration.contenders import baselines
from steering.calibration.data import ANSWER_LIMIT, development_items, neutral_items, neutral_texts
from steering.calibration.find_detector import (
    Drift,
    Found,
    Log,
    caving_items,
    find_detector,
    find_drift,
    fit_whole_lens,
)
from steering.calibration.fit_lens import States, record_states
from steering.calibration.head_groups import neutral_means, set_to_means
from steering.calibration.kept_results import KeptResults
from steering.calibration.nulls import ALPHA
from steering.calibration.proof import Evidence, Proof
from steering.calibration.prove_groups import localise, pool_of, prove_groups
from steering.calibration.prove_neurons import prove_neurons
from steering.calibration.prove_tuned import prove_tuned
from steering.calibration.search import Search
from steering.calibration.take_to_test import Looks, take_to_test
from steering.contrast.source import Source
from steering.contrast.splits import Split
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.evaluation.run import Progress
from steering.lens_file import WholeLens, load_lens, save_lens
from steering.model.loading import LanguageModel
from steering.pack import Pack
from steering.plan import Plan

ENGINE = EngineConfig(max_rows=128, prefill_tokens=2048, prefix_cache=2**30)
"""Candidates run beside each other in one batch, and share what was computed of their prompts. Nothing in it is chosen
by a measurement, so that a run can be repeated."""
NUM_TEXTS = 800
"""On which a lens is fitted."""
FEW = 20
"""Answers that cave, below which there is nothing to search by."""

DESCRIPTIONS = {
    "candid": "Holds on to what the early layers read when the late ones drift to the user's claim.",
    "neurons": "Sets the MLP neurons that tell the model is about to cave.",
    "pinned": "A few head groups, tuned to hold where the model was right and to give in where it was wrong.",
}


@dataclass(frozen=True)
class CalibrationConfig:
    """How thorough a calibration is."""

    num_nulls: int = 199
    """Random sets of units that found ones are held against."""
    tunes: bool = True
    """Whether weights are tuned: the longest part."""
    seed: int = 0


QUICK = CalibrationConfig(num_nulls=99, tunes=False)


@dataclass(frozen=True)
class Calibration:
    """One run."""

    model: LanguageModel
    source: Source
    config: CalibrationConfig
    work: Path | None
    """Folder in which measurements are kept as they come; None: in memory alone."""
    log: Log
    progress: Progress
    lens: WholeLens | None = None
    """None: one is fitted on the source's neutral texts, and kept."""
    test: Split | None = None
    """Questions to look at in the end, once; None: they are left for later."""

    def run(self) -> list[Pack]:
        """`candid` first, without corrections where none was proved; then what else was."""
        self.log(f"questions: {self.source}")
        engine = Engine(self.model, ENGINE)
        try:
            return self._run(Asking(engine, KeptResults(self._kept("answers.jsonl"), self._passport())))
        finally:
            engine.close()

    def _run(self, asking: Asking) -> list[Pack]:
        seed = self.config.seed
        drift = self._drift()
        num_caving = len(caving_items(asking, self.source, seed))
        seen: Evidence = {"num_caving": num_caving}
        if num_caving < FEW:
            self.log(f"it repeats wrong claims in {num_caving} answers: too few to search by.")
            return self._packs(drift, None, {}, {"candid": seen})
        means = neutral_means(self.model, neutral_items(self.source, seed))
        setting = partial(set_to_means, self.model.layout, means)
        found = find_detector(asking, self.source, drift.early, setting, seed, self.log) if drift.early else None
        bench = Bench(development_items(self.source, seed), asking.generate(Plan()))
        detector = found.detector if found else None
        search = Search(asking, self.source, bench, detector, seed, self.log, self.progress)
        localisation, located = localise(search, self.work)
        proofs: dict[str, tuple[Proof | None, Evidence]] = {
            "candid": prove_groups(search, found, located, setting, self.config.num_nulls),
            "neurons": prove_neurons(search, found, self.config.num_nulls, self._kept("neurons")),
        }
        if self.config.tunes and located and self._can_tune():
            proofs["pinned"] = prove_tuned(search, located, pool_of(search), self._kept("tuned"))
        shared = seen | localisation
        evidence = {name: {**shared, **on_the_way} for name, (_, on_the_way) in proofs.items()}
        proved = {name: proof for name, (proof, _) in proofs.items() if proof}
        packs = self._packs(drift, found, proved, evidence)
        if self.test is None:
            return packs
        rivals = baselines(search, located, tuned="pinned" in proofs)
        return take_to_test(search, self.test, packs, proved, rivals, self._looks)

    def _drift(self) -> Drift:
        """States of all texts are held while it is found, and no longer."""
        states = record_states(self.model, neutral_texts(self.model, self.source, NUM_TEXTS, self.config.seed))
        return find_drift(self.model, self.source, states, self._lens(states), self.config.seed, self.log)

    def _packs(
        self, drift: Drift, found: Found | None, proofs: dict[str, Proof], evidence: dict[str, Evidence]
    ) -> list[Pack]:
        packs = []
        for name, seen in evidence.items():
            proof = proofs.get(name)
            proved = proof is not None and proof.null.p <= ALPHA and proof.plan.digest not in self._looks.failed
            if proved or name == "candid":
                all_seen = seen | (proof.evidence if proof else {})
                packs.append(self._pack(name, drift, found, proof.plan if proof and proved else None, all_seen))
        return packs

    def _pack(self, name: str, drift: Drift, found: Found | None, plan: Plan | None, seen: Evidence) -> Pack:
        watched = found.detector if found else drift.best
        pack = Pack(
            name=name,
            description=DESCRIPTIONS[name],
            model_name=self.model.name,
            fingerprint=self.model.fingerprint,
            corrections=plan.corrections if plan else (),
            weight_corrections=plan.weight_corrections if plan else (),
            detector=plan.detector if plan else watched,
            evidence={
                "seed": self.config.seed,
                "answer_limit": ANSWER_LIMIT,
                "test_looks": self._looks.all,
                "questions": {
                    "name": self.source.name,
                    "digest": self.source.digest,
                    "limits": self.source.limits,
                },
                **drift.evidence,
                **(found.evidence if found else {}),
                **seen,
            },
        )
        return replace(pack, card=card(pack))

    def _can_tune(self) -> bool:
        able = self.model.quantized is None and self.model.dtype == torch.float32
        if not able:
            self.log("weights are tuned in float32 alone: load the model so to have that tried too.")
        return able

    def _lens(self, states: States) -> WholeLens:
        if self.lens is not None:
            return self.lens
        kept = self._kept("lens.safetensors")
        if kept and kept.exists():
            return load_lens(kept, self.model)
        fitted = fit_whole_lens(self.model, self.source, states, self.config.seed, self._kept("lens.fit"))
        if kept:
            save_lens(fitted, kept)
        return fitted

    @property
    def _looks(self) -> Looks:
        asked = f"looks-{self.model.fingerprint.removeprefix('sha256:')[:12]}-{self.source.digest[:12]}.jsonl"
        return Looks(self.work and self.work.parent / asked)

    def _kept(self, name: str) -> Path | None:
        return self.work and self.work / name

    def _passport(self) -> Evidence:
        return {
            "model": self.model.fingerprint,
            "dtype": str(self.model.dtype),
            "device": self.model.device.type,
            "questions": self.source.digest,
            "seed": self.config.seed,
            "answer_limit": ANSWER_LIMIT,
        }
