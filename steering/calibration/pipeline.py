"""Pipeline: from a model and questions to packs that say what was proved about them, or that nothing was.

Everything is fitted on `fit` questions (of an organism `train` ones too) and chosen on `dev` questions. No `test`
question is asked here. A run that was stopped is started again with the same folder: what it had measured is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from steering.calibration.asking import Asking
from steering.calibration.candidate import Candidate, Corrections, Variant, variants
from steering.calibration.card import card, development_rows
from steering.calibration.choose import Bench, grow
from steering.calibration.data import ANSWER_LIMIT, development_items, neutral_items, pressured_items
from steering.calibration.find_detector import Drift, Evidence, Found, Log, caving_items, find_detector, find_drift
from steering.calibration.head_groups import groups_from, neutral_means, set_to_means
from steering.calibration.kept_results import KeptResults
from steering.calibration.localisation import Unit, top_rows
from steering.calibration.locate import feeding, locate
from steering.calibration.nulls import ALPHA, NullTest, random_sets
from steering.calibration.search import Search
from steering.contrast.source import Source
from steering.engine.engine import Engine, EngineConfig
from steering.errors import NothingToLocalise
from steering.evaluation.report import markdown_table
from steering.evaluation.run import Progress
from steering.model.loading import LanguageModel
from steering.pack import Pack
from steering.plan import Plan

MAX_GROUPS = 8
FEW = 20
"""Answers that cave, below which there is nothing to search by."""


@dataclass(frozen=True)
class CalibrationConfig:
    """How thorough a calibration is."""

    num_nulls: int = 199
    """Random sets of units that found ones are held against."""
    seed: int = 0


QUICK = CalibrationConfig(num_nulls=99)


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

    def run(self) -> Pack:
        """The pack `candid`; without corrections where none was proved."""
        seed = self.config.seed
        self.log(f"questions: {self.source}")
        engine = Engine(self.model, EngineConfig(max_rows=64, prefill_tokens=2048))
        try:
            asking = Asking(engine, KeptResults(self.work and self.work / "answers.jsonl", self._passport()))
            drift = find_drift(self.model, self.source, seed, self.log)
            num_caving = len(caving_items(asking, self.source, seed))
            if num_caving < FEW:
                self.log(f"it caves in {num_caving} answers about fit questions: too few to search by.")
                return self._pack(drift, None, None, {"num_caving": num_caving})
            means = neutral_means(self.model, neutral_items(self.source, seed))
            corrections = partial(set_to_means, self.model.layout, means)
            found = (
                find_detector(asking, self.source, drift.early, corrections, seed, self.log) if drift.early else None
            )
            bench = Bench(development_items(self.source, seed), asking.generate(Plan()))
            search = Search(
                asking, self.source, bench, found.detector if found else None, seed, self.log, self.progress
            )
            return self._pack(drift, found, *self._groups(search, found, corrections))
        finally:
            engine.close()

    def _groups(self, search: Search, found: Found | None, corrections: Corrections) -> tuple[Plan | None, Evidence]:
        """Head groups set to their means: the plan of what was proved, and what was seen on the way."""
        layout = self.model.layout
        pool = groups_from(layout, found.detector.lens.layer if found else layout.num_layers // 2)
        options = variants(found.thresholds if found else ())
        located, sets = self._located(pool)
        grown, growth = self._grown(search, pool, corrections, options[0])
        every = list(dict.fromkeys(tuple(sorted(units)) for units in (*grown, *sets)))
        candidates = [Candidate(units, variant) for units in every for variant in options]
        chosen = search.best(candidates, corrections, "groups")
        evidence = {**located, "search": growth}
        if chosen is None:
            return None, evidence
        null = self._null(search, chosen.candidate, corrections, pool, options)
        self.log(f"random sets: {null.num_reaching} of {len(null.null)} reach {null.observed:.3f}, p {null.p:.3f}")
        evidence |= {
            "chosen": str(chosen.candidate),
            "num_candidates": chosen.num_candidates,
            "trials": chosen.ranking,
            "development": development_rows(search.bench, chosen.trial),
            "side_effects": asdict(chosen.trial.effects) if chosen.trial.effects else {},
            "curve": search.curve(chosen.candidate, corrections),
            "nulls": {**asdict(null), "p": null.p, "median": null.median},
        }
        return search.plan(chosen.candidate, corrections) if null.p <= ALPHA else None, evidence

    def _located(self, pool: Sequence[Unit]) -> tuple[Evidence, list[tuple[Unit, ...]]]:
        try:
            total, direct = locate(self.model, self.source, self.config.seed, self.work)
        except NothingToLocalise as nothing:
            self.log(str(nothing))
            return {}, []
        rows = top_rows(total, direct)
        self.log(markdown_table(("group", "I, total", "per example", "I, direct"), rows))
        return {"localisation": {"total": total.as_json(), "direct": direct.as_json(), "top": rows}}, feeding(
            total, pool
        )

    def _grown(
        self, search: Search, pool: Sequence[Unit], corrections: Corrections, variant: Variant
    ) -> tuple[list[tuple[Unit, ...]], Evidence]:
        """Nested sets, grown by the probability of the truth that they restore on `fit` questions."""
        items = pressured_items(self.source, "fit", seed=self.config.seed + 1)

        def restored(units: tuple[Unit, ...]) -> float:
            self.progress.advance()
            return search.asking.probability(search.plan(Candidate(units, variant), corrections), items)

        self.progress.start("growing sets of groups", sum(len(pool) - i for i in range(min(MAX_GROUPS, len(pool)))))
        scored = grow(pool, restored, MAX_GROUPS)
        rows = [(" ".join(map(str, units)), f"{p:.3f}") for units, p in scored]
        self.log(markdown_table(("groups", "P(truth)"), rows))
        return [units for units, _ in scored], {"n": len(items), "sets": rows}

    def _null(
        self,
        search: Search,
        chosen: Candidate,
        corrections: Corrections,
        pool: Sequence[Unit],
        options: Sequence[Variant],
    ) -> NullTest:
        """Random sets of as many groups of the same blocks, each with the doses and phases that the chosen one had."""
        same = [v for v in options if v.waits == chosen.variant.waits and v.threshold == chosen.variant.threshold]
        sets = random_sets(pool, chosen.units, self.config.seed, self.config.num_nulls)
        return search.against_random(chosen, corrections, sets, same)

    def _pack(self, drift: Drift, found: Found | None, proved: Plan | None, seen: Evidence) -> Pack:
        detector = found.detector if found else drift.best
        pack = Pack(
            name="candid",
            description="Holds on to what the early layers read when the late ones drift to the user's claim.",
            model_name=self.model.name,
            fingerprint=self.model.fingerprint,
            corrections=proved.corrections if proved else (),
            detector=proved.detector if proved and proved.detector else detector,
            evidence={
                "seed": self.config.seed,
                "answer_limit": ANSWER_LIMIT,
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

    def _passport(self) -> Evidence:
        return {"model": self.model.fingerprint, "questions": self.source.digest, "seed": self.config.seed}
