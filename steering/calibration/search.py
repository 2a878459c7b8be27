"""Search: which units, how hard and when, by the answers they lead to on development questions (METHODS 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steering.calibration.asking import Asking
from steering.calibration.candidate import Candidate, Corrections, Variant, plan_of
from steering.calibration.choose import Bench, Trial
from steering.calibration.data import HARMLESS, story_texts
from steering.calibration.halving import halve, rungs
from steering.calibration.nulls import NullTest, against_nulls
from steering.contrast.source import Source
from steering.evaluation.run import Progress
from steering.evaluation.side_effects import SideEffects
from steering.model.chat import encode_chat
from steering.plan import Detector, Plan

LEAST_QUESTIONS = 24
"""Asked at the first rung of a search."""
NEARLY = 0.03
"""Share of true answers that a cheaper candidate may fall short of the best."""
NUM_GUARDED = 12
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

    def best(
        self, candidates: Sequence[Candidate], corrections: Corrections, what: str, *, nested: bool = True
    ) -> Winner | None:
        """The cheapest of the nearly best whose guards hold; None if those of none hold, or nothing restores truth.

        Where the guards of one break, it and all that do no less are out, and the search goes on among the others.
        nested: more units do what fewer of them do, and more; otherwise only the one goes.
        """
        sizes = rungs(self.bench.num_questions, len(candidates), LEAST_QUESTIONS)
        self.progress.start(f"searching {what}", sum(max(3, len(candidates) // 3**i) for i in range(len(sizes))))
        trials: dict[tuple[Candidate, int], Trial] = {}

        def score(candidate: Candidate, num_questions: int) -> float:
            key = candidate, num_questions
            if key not in trials:
                self.progress.advance()
                trials[key] = self._try(candidate, corrections, num_questions)
            return trials[key].score

        left = list(candidates)
        for _ in range(NUM_GUARDED):
            better = [(one, s) for one, s in halve(left, score, sizes) if s > self.bench.off_score] if left else []
            if not better:
                break
            candidate = _cheapest(better)
            trial = self.guarded(candidate, corrections, trials[candidate, sizes[-1]])
            if trial.holds:
                ranking = tuple((str(one), round(s, 4)) for one, s in better)
                return Winner(candidate, trial, ranking, len(candidates))
            left = [one for one in left if one != candidate and not (nested and one.includes(candidate))]
        return None

    def guarded(self, candidate: Candidate, corrections: Corrections, trial: Trial) -> Trial:
        """The same trial, its guards measured."""
        plan = self.plan(candidate, corrections)
        told = ", ".join(f"{kind} {share:.3f}" for kind, share in trial.truth.items())
        trial = self.bench.guard(trial, self.asking.generate(plan), self._side_effects(plan))
        broken = [f"{kind} {guard.change.bound:+.3f}" for kind, guard in trial.guards.items() if not guard.holds]
        verdict = "guards hold" if trial.holds else f"broken: {', '.join(broken) or trial.effects}"
        self.log(f"{candidate}: {told}; {verdict}")
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
            ranked = halve(tried, lambda one, n: self._try(one, corrections, n).score, sizes, at_least=1)
            self.progress.advance()
            return ranked[0][1]

        return against_nulls(reach(candidate.units), reach, sets)

    def curve(self, candidate: Candidate, corrections: Corrections) -> Mapping[str, Mapping[str, float]]:
        """Strength of a request -> share of true answers under each kind of pressure."""
        full = self.plan(candidate, corrections)
        plans = {strength: replace(full, strength=strength) for strength in STRENGTHS}
        tried = {strength: self.bench.try_pressure(self.asking.generate(plan)) for strength, plan in plans.items()}
        return {f"{strength:g}": {str(k): share for k, share in t.truth.items()} for strength, t in tried.items()}

    def _try(self, candidate: Candidate, corrections: Corrections, num_questions: int) -> Trial:
        return self.bench.try_pressure(self.asking.generate(self.plan(candidate, corrections)), num_questions)

    def _side_effects(self, plan: Plan) -> SideEffects:
        model = self.asking.model
        asked = [graded.item for kind in HARMLESS for graded in self.bench.off[kind][:NUM_SIDE_EFFECTS]]
        prompts = [tuple(encode_chat(model, item.messages)) for item in asked]
        texts = story_texts(model, self.source, NUM_SIDE_EFFECTS, self.seed)
        return self.asking.side_effects(plan, prompts, texts)


def _cheapest(ranked: Sequence[tuple[Candidate, float]]) -> Candidate:
    """Of those that are nearly as good as the first."""
    return min((one for one, score in ranked if score >= ranked[0][1] - NEARLY), key=lambda one: one.price)
