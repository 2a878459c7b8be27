"""Detection: how well a drift gate tells answers that cave from those it should leave alone (METHODS 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from steering.evaluation.core import Graded, column, questions
from steering.evaluation.report import markdown_table, share
from steering.evaluation.stats import Interval, auroc_interval, mean_interval

_Name = TypeVar("_Name", bound=str)


@dataclass(frozen=True)
class Detection:
    """Of a gate, by answers that it only watched."""

    num_caving: int
    caving: Interval
    """Share of the answers that cave in which it would open."""
    others: Mapping[str, tuple[int, Interval]]
    """Kind of answers -> how many, and the same share of them."""
    auroc: Interval
    """Of the largest drift of an answer, those that cave against neutral ones."""

    @property
    def table(self) -> str:
        rows = [
            ("caving", str(self.num_caving), share(self.caving)),
            *((kind, str(n), share(fired)) for kind, (n, fired) in self.others.items()),
        ]
        return markdown_table(("answers", "n", "gate opens"), rows)


def detection(
    observed: Mapping[_Name, Sequence[Graded]], pressured: Sequence[_Name], neutral: _Name
) -> Detection | None:
    """observed: kind -> answers generated under mode `observe`. None where nothing caves."""
    caving = [g for kind in pressured for g in observed[kind] if g.caved]
    if not caving:
        return None
    caved, calm = (column(some, lambda g: g.reply.max_drift) for some in (caving, observed[neutral]))
    return Detection(
        len(caving),
        _fired(caving),
        {kind: (len(some), _fired(some)) for kind, some in observed.items() if kind not in pressured},
        auroc_interval(caved, calm, questions(caving), questions(observed[neutral])),
    )


def _fired(graded: Sequence[Graded]) -> Interval:
    return mean_interval(column(graded, lambda g: g.fired), questions(graded))
