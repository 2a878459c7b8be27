"""Choose: which groups, behind which gate, by the answers they lead to on development questions."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from steering.calibration.data import PRESSURED
from steering.contrast.item import Item, Kind
from steering.evaluation.core import Generate, Graded, Prompt, column, evaluate, questions
from steering.evaluation.side_effects import SideEffects
from steering.evaluation.stats import Difference, Floats, paired_difference

MARGIN, WIDER_MARGIN, MANY = 0.02, 0.03, 300
"""What a guard may lose, as the lower bound of its change says; the wider margin below MANY questions."""

Items = Mapping[Kind, Sequence[Item]]

_T = TypeVar("_T")


def grow(
    units: Iterable[_T], scores: Callable[[Sequence[tuple[_T, ...]]], Sequence[float]], size: int
) -> list[tuple[tuple[_T, ...], float]]:
    """Greedy forward selection: sets of 1 .. size units with their scores, each the best extension of the last.

    scores: of all extensions of one set.
    """
    left, chosen = list(units), tuple[_T, ...]()
    scored = list[tuple[tuple[_T, ...], float]]()
    while left and len(scored) < size:
        extended = dict(zip(left, scores([(*chosen, unit) for unit in left]), strict=True))
        best = max(left, key=extended.__getitem__)
        left.remove(best)
        chosen = (*chosen, best)
        scored.append((chosen, extended[best]))
    return scored


@dataclass(frozen=True)
class Guard:
    """What corrections do to answers that they should leave alone."""

    off: float
    """Share without them: of true answers; where yes or no is asked for, of answers that are yes if these fall more."""
    change: Difference
    num_questions: int

    @property
    def margin(self) -> float:
        return MARGIN if self.num_questions >= MANY else WIDER_MARGIN

    @property
    def holds(self) -> bool:
        return self.change.bound >= -self.margin


@dataclass(frozen=True)
class Trial:
    """How some corrections did on development questions."""

    truth: Mapping[Kind, float]
    """Share of true answers under each kind of pressure."""
    guards: Mapping[Kind, Guard]
    """By the kind of question; empty until measured."""
    effects: SideEffects | None = None

    @property
    def score(self) -> float:
        """The weaker kind of pressure counts."""
        return min(self.truth.values())

    @property
    def holds(self) -> bool:
        """Every guard was measured and holds."""
        return (
            bool(self.guards)
            and all(guard.holds for guard in self.guards.values())
            and self.effects is not None
            and self.effects.holds
        )


class Bench:
    """Development items by kind, and how the uncorrected model answers them."""

    def __init__(self, items: Items, generate_off: Generate) -> None:
        self._items = items
        self.off = {kind: evaluate(some, generate_off) for kind, some in items.items()}

        asked = sorted({item.question_id for kind in PRESSURED for item in items[kind]})
        self._order = {question: i for i, question in enumerate(random.Random(0).sample(asked, len(asked)))}

    @property
    def num_questions(self) -> int:
        """Asked under pressure."""
        return len(self._order)

    def off_truth(self, kind: Kind) -> float:
        return float(_truth(self.off[kind]).mean())

    @property
    def off_score(self) -> float:
        return min(map(self.off_truth, PRESSURED))

    def try_pressure(self, generate: Generate, num_questions: int | None = None) -> Trial:
        """Truth under pressure alone, about some of the questions: cheap enough for every candidate."""
        most = self.num_questions if num_questions is None else num_questions
        some = {kind: self._pressured(kind, most) for kind in PRESSURED}
        return Trial({kind: float(_truth(evaluate(items, generate)).mean()) for kind, items in some.items()}, {})

    def at_best(self, trial: Trial, asked: int, num_questions: int) -> float:
        """The score of a trial on `asked` questions, were all the others of so many answered truly."""
        counts = {kind: [len(self._pressured(kind, n)) for n in (asked, num_questions)] for kind in PRESSURED}
        return min((trial.truth[kind] * n + most - n) / most for kind, (n, most) in counts.items())

    def pressing(self, num_questions: int) -> list[list[Prompt]]:
        """All that `try_pressure` asks about so many questions."""
        return [[item.messages for item in self._pressured(kind, num_questions)] for kind in PRESSURED]

    def _pressured(self, kind: Kind, num_questions: int) -> list[Item]:
        return [item for item in self._items[kind] if self._order[item.question_id] < num_questions]

    def guard(self, trial: Trial, generate: Generate, effects: SideEffects) -> Trial:
        """The same trial, and what it did to everything else."""
        guards = {
            kind: guard(self._ask(kind, generate), self.off[kind]) for kind in self._items if kind not in PRESSURED
        }
        return replace(trial, guards=guards, effects=effects)

    def _ask(self, kind: Kind, generate: Generate) -> list[Graded]:
        return evaluate(self._items[kind], generate)


def guard(on: Sequence[Graded], off: Sequence[Graded]) -> Guard:
    """Answers to the same items of one kind, corrected and not. Of balanced yes/no questions neither truth nor the
    share answered yes may fall: a bias to no can cost as many true answers as it makes."""
    judges: list[Callable[[Graded], bool]] = [lambda g: g.is_true]
    if on[0].item.kind == "yes_no":
        judges.append(lambda g: g.answer == "yes")
    return min((_kept(on, off, judge) for judge in judges), key=lambda found: found.change.bound)


def _kept(on: Sequence[Graded], off: Sequence[Graded], judge: Callable[[Graded], bool]) -> Guard:
    kept_on, kept_off = (column(graded, judge) for graded in (on, off))
    return Guard(float(kept_off.mean()), paired_difference(kept_on, kept_off, questions(on)), len(set(questions(on))))


def _truth(graded: Sequence[Graded]) -> Floats:
    return column(graded, lambda g: g.is_true)
