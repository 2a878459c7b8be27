"""Search: which units, how hard and when, by the answers they lead to on development questions (METHODS 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steering.calibration.asking import Asking
from steering.calibration.candidate import Candidate, Corrections, Variant, plan_of
from steering.calibration.choose import Bench, Trial
from steering.calibration.data import HARMLESS, PRESSURED, story_texts
from steering.calibration.halving import halve, rungs
from steering.calibration.nulls import NullTest, against_nulls
from steering.contrast.source import Source
from steering.evaluation.report import markdown_table
from steering.evaluation.run import Progress
from steering.evaluation.side_effects import SideEffects
from steering.model.chat import encode_chat
from steering.plan import Detector, Plan

LEAST_QUESTIONS = 24
"""Asked at the first rung of a search."""
NEARLY = 0.03
"""Share of true answers that a cheaper candidate may fall short of the best."""
NUM_GUARDED = 8
"""Candidates whose guards are measured until those of one hold."""
NUM_SIDE_EFFECTS = 200
"""Prompts of each harmless kind, and texts, on which side effects are measured."""
NULL_QUESTIONS = 100
"""Most questions on which units are held against random ones: the found and the random alike."""
STRENGTHS = (0.25, 0.5, 1.0)

Log = Callable[[str], None]


@dataclass(frozen=True)
class Winner:
    """A candidate whose guards hold."""

    candidate: Candidate
    trial: Trial
    ranking: tuple[tuple[str, float], ...]
    """Candidates of the last rung and their scores, best first."""
    num_candidates: int
    """All that were tried."""


@dataclass(frozen=True)
class Search:
    """What every search of a calibration shares."""

    asking: Asking
    source: Source
    bench: Bench
    detector: Detector | None
    seed: int
    log: Log
    progress: Progress

    def plan(self, candidate: Candidate, corrections: Corrections) -> Plan:
        return plan_of(candidate, corrections, self.detector)

    def best(self, candidates: Sequence[Candidate], corrections: Corrections, what: str) -> Winner | None:
        """The cheapest of the nearly best whose guards hold, else the best whose guards do; None if those of none hold,
        or nothing restores any truth."""
        sizes = rungs(self.bench.num_questions, len(candidates), LEAST_QUESTIONS)
        self.progress.start(f"searching {what}", _num_trials(len(candidates), len(sizes)))
        trials: dict[Candidate, Trial] = {}

        def score(candidate: Candidate, num_questions: int) -> float:
            trials[candidate] = self._try(candidate, corrections, num_questions)
            return trials[candidate].score

        ranked = halve(candidates, score, sizes)
        rows = [
            (str(one), *(f"{trials[one].truth[kind]:.3f}" for kind in PRESSURED)) for one, _ in ranked[:NUM_GUARDED]
        ]
        self.log(markdown_table((what, *PRESSURED), rows))
        for candidate in _in_order(ranked, self.bench.off_score)[:NUM_GUARDED]:
            trial = self.guarded(candidate, corrections, trials[candidate])
            if trial.holds:
                return Winner(candidate, trial, tuple((str(one), s) for one, s in ranked), len(candidates))
        return None

    def guarded(self, candidate: Candidate, corrections: Corrections, trial: Trial) -> Trial:
        """The same trial, its guards measured."""
        plan = self.plan(candidate, corrections)
        trial = self.bench.guard(trial, self.asking.generate(plan), self._side_effects(plan))
        broken = [kind for kind, guard in trial.guards.items() if not guard.holds]
        self.log(f"{candidate}: {'guards hold' if trial.holds else f'broken: {broken}, {trial.effects}'}")
        return trial

    def against_random(
        self,
        candidate: Candidate,
        corrections: Corrections,
        sets: Sequence[tuple[Any, ...]],
        options: Sequence[Variant],
    ) -> NullTest:
        """The units of a candidate against random ones, each with the best of the same options."""
        questions = min(NULL_QUESTIONS, self.bench.num_questions)
        sizes = rungs(questions, len(options), LEAST_QUESTIONS)
        self.progress.start("random units", 1 + len(sets))

        def reach(units: tuple[Any, ...]) -> float:
            tried = [Candidate(units, variant) for variant in options]
            ranked = halve(tried, lambda one, n: self._try(one, corrections, n, quiet=True).score, sizes, at_least=1)
            self.progress.advance()
            return ranked[0][1]

        return against_nulls(reach(candidate.units), reach, sets)

    def curve(self, candidate: Candidate, corrections: Corrections) -> Mapping[str, Mapping[str, float]]:
        """Strength of a request -> share of true answers under each kind of pressure."""
        full = self.plan(candidate, corrections)
        plans = {strength: replace(full, strength=strength) for strength in STRENGTHS}
        tried = {strength: self.bench.try_pressure(self.asking.generate(plan)) for strength, plan in plans.items()}
        return {f"{strength:g}": {str(k): share for k, share in t.truth.items()} for strength, t in tried.items()}

    def _try(self, candidate: Candidate, corrections: Corrections, num_questions: int, *, quiet: bool = False) -> Trial:
        plan = self.plan(candidate, corrections)
        if not quiet:
            self.progress.advance()
        return self.bench.try_pressure(self.asking.generate(plan), num_questions)

    def _side_effects(self, plan: Plan) -> SideEffects:
        model = self.asking.model
        asked = [graded.item for kind in HARMLESS for graded in self.bench.off[kind][:NUM_SIDE_EFFECTS]]
        prompts = [tuple(encode_chat(model, item.messages)) for item in asked]
        texts = story_texts(model, self.source, NUM_SIDE_EFFECTS, self.seed)
        return self.asking.side_effects(plan, prompts, texts)


def _in_order(ranked: Sequence[tuple[Candidate, float]], off: float) -> list[Candidate]:
    """Those that restore truth: the nearly best, the cheapest first, then the others, the best first."""
    better = [(one, score) for one, score in ranked if score > off]
    best = max((score for _, score in better), default=0.0)
    nearly = [one for one, score in better if score >= best - NEARLY]
    return [*sorted(nearly, key=lambda one: one.price), *(one for one, score in better if score < best - NEARLY)]


def _num_trials(candidates: int, num_rungs: int) -> int:
    return sum(max(3, candidates // 3**i) for i in range(num_rungs))
