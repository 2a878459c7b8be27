"""Search: which units, how hard and when, by the answers they lead to on development questions (METHODS 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
KEPT_EFFECT = 0.9
"""Share of the best one's effect that is enough for one that changes less."""
LEAST_EFFECT = 0.05
"""Share of true answers that a correction must restore to be worth having."""
NUM_GUARDED = 12
"""Candidates whose guards are measured until those of one hold."""
NUM_SIDE_EFFECTS = 200
"""Prompts of each harmless kind, and texts, on which side effects are measured."""
NULL_QUESTIONS = 100
"""Most questions on which units are held against random ones: the found and the random alike."""
NULL_LEAST = 8
"""Of them, asked before a random set may be given up."""
NULLS_AT_ONCE = 10
"""Random sets that are tried in one batch."""
BATCH = 2048
"""Answers that are asked for at once, and kept or lost together where the run is killed."""
STRENGTHS = (0.25, 0.5, 1.0)

Log = Callable[[str], None]


@dataclass(frozen=True)
class Winner:
    """A candidate whose guards hold."""

    candidate: Candidate
    trial: Trial
    ranking: tuple[tuple[str, float], ...]
    """Candidates of the last rung and their scores, best first; the one itself last if halving had dropped it."""
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
        """Of those whose guards hold and that keep nearly all of the best one's effect, the one that changes least;
        None where the guards of none hold, or nothing restores truth enough.

        Where the guards of one break, it and all that do no less are out, and the search goes on among the others.
        nested: more units do what fewer of them do, and more; otherwise only the one goes.
        """
        sizes = rungs(self.bench.num_questions, len(candidates), LEAST_QUESTIONS)
        self.progress.start(f"searching {what}", sum(max(3, len(candidates) // 3**i) for i in range(len(sizes))))

        trials = Trials(self, corrections)

        def keeps(candidate: Candidate, enough: float) -> bool:
            """Two standard errors of doubt, at most, are to its favour where few questions are asked."""
            few = all(trials.score(candidate, n) >= enough - n**-0.5 for n in sizes[:-1])
            return few and trials.score(candidate, sizes[-1]) >= enough

        left = list(candidates)
        for _ in range(NUM_GUARDED):
            ranked = halve([left], trials.scores, sizes)[0] if left else []
            better = [(one, s) for one, s in ranked if s >= self.bench.off_score + LEAST_EFFECT]
            if not better:
                break
            enough = self.bench.off_score + max(LEAST_EFFECT, KEPT_EFFECT * (better[0][1] - self.bench.off_score))
            kept = (one for one in sorted(left, key=lambda one: one.price) if keeps(one, enough))
            candidate = next(kept, better[0][0])
            trial = self.guarded(candidate, corrections, trials.of(candidate, sizes[-1]))
            if trial.holds:
                ranking = {str(one): round(s, 4) for one, s in [*better, (candidate, trial.score)]}
                return Winner(candidate, trial, tuple(ranking.items()), len(candidates))
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
        *,
        at_once: int = NULLS_AT_ONCE,
    ) -> NullTest:
        """The units of a candidate against random ones, each with the best of the same options, so many at once.

        A random set is asked no further once it cannot reach the candidate even if all that is left came out true.
        """
        questions = min(NULL_QUESTIONS, self.bench.num_questions)
        sizes = [size for size in (questions // 9, questions // 3) if size >= NULL_LEAST] + [questions]
        trials = Trials(self, corrections)

        def reach(some: Sequence[tuple[Any, ...]], needed: float = 0.0) -> list[float]:
            ranked = halve(
                [[Candidate(units, variant) for variant in options] for units in some],
                trials.scores,
                sizes,
                at_least=1,
                hopeless=lambda one, asked: self.bench.at_best(trials.of(one, asked), asked, questions) < needed,
            )
            return [best[0][1] for best in ranked]

        observed = reach([candidate.units])[0]
        return against_nulls(observed, partial(reach, needed=observed), sets, at_once=at_once)

    def curve(self, candidate: Candidate, corrections: Corrections) -> Mapping[str, Mapping[str, float]]:
        """Strength of a request -> share of true answers under each kind of pressure."""
        full = self.plan(candidate, corrections)
        plans = {strength: replace(full, strength=strength) for strength in STRENGTHS}
        tried = {strength: self.bench.try_pressure(self.asking.generate(plan)) for strength, plan in plans.items()}
        return {f"{strength:g}": {str(k): share for k, share in t.truth.items()} for strength, t in tried.items()}

    def try_all(self, candidates: Sequence[Candidate], corrections: Corrections, num_questions: int) -> list[Trial]:
        """Each on so many questions, all of them in one batch."""
        plans = [self.plan(candidate, corrections) for candidate in candidates]
        prompts = self.bench.pressing(num_questions)
        self.asking.answers([(plan, some) for plan in plans for some in prompts])
        return [self.bench.try_pressure(self.asking.generate(plan), num_questions) for plan in plans]

    def _side_effects(self, plan: Plan) -> SideEffects:
        model = self.asking.model
        asked = [graded.item for kind in HARMLESS for graded in self.bench.off[kind][:NUM_SIDE_EFFECTS]]
        prompts = [tuple(encode_chat(model, item.messages)) for item in asked]
        texts = story_texts(model, self.source, NUM_SIDE_EFFECTS, self.seed)
        return self.asking.side_effects(plan, prompts, texts)


class Trials:
    """Of candidates that share their corrections. Those asked for together run together, and none runs twice."""

    def __init__(self, search: Search, corrections: Corrections) -> None:
        self._search, self._corrections = search, corrections
        self._known = dict[tuple[Candidate, int], Trial]()

    def of(self, candidate: Candidate, num_questions: int) -> Trial:
        self._try([candidate], num_questions)
        return self._known[candidate, num_questions]

    def score(self, candidate: Candidate, num_questions: int) -> float:
        return self.of(candidate, num_questions).score

    def scores(self, candidates: Sequence[Candidate], num_questions: int) -> list[float]:
        self._try(candidates, num_questions)
        return [self.score(candidate, num_questions) for candidate in candidates]

    def _try(self, candidates: Sequence[Candidate], num_questions: int) -> None:
        search = self._search
        new = [one for one in dict.fromkeys(candidates) if (one, num_questions) not in self._known]
        if not new:
            return
        size = max(1, BATCH // sum(map(len, search.bench.pressing(num_questions))))
        for start in range(0, len(new), size):
            some = new[start : start + size]
            for one, trial in zip(some, search.try_all(some, self._corrections, num_questions), strict=True):
                self._known[one, num_questions] = trial
                search.progress.advance()
