"""What steering costs: one engine, the same prompts, steered in every way there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from steering.engine.engine import Engine
from steering.model.loading import LanguageModel
from steering.plan import Plan
from tests.bench import names
from tests.bench.profiles import always, at_threshold, drift_plan, resident_plans, tuned_plan
from tests.bench.rounds import Cell, Contest, timed
from tests.bench.workload import Workload, engine_of

FIRING_SHARE, TRIED = 0.05, 8
"""Of the tokens; thresholds tried to reach it."""


def cells(shapes: Iterable[str], batches: Iterable[int], kinds: Iterable[str], new: int) -> Iterator[Cell]:
    batches = list(batches)
    for kind in kinds:
        for shape in shapes:
            for batch in batches:
                work = Workload(shape, batch, 64 + new, new, temperature=1.0)
                yield Cell(f"steering, {kind}", shape, batch, work.context, partial(contest, work, kind))


@contextmanager
def contest(work: Workload, kind: str) -> Iterator[Contest]:
    with engine_of(work, kind) as (model, engine):
        watching = drift_plan(model, threshold=1.0)
        threshold, fired = threshold_of(work, engine, watching, FIRING_SHARE)
        plans = steered(model, watching, at_threshold(watching, threshold))
        contenders = {name: timed(partial(work.run_full, engine, own)) for name, own in plans.items()}
        pairs = [(name, names.OFF) for name in plans if name != names.OFF]
        pairs.insert(pairs.index((names.RESIDENT, names.OFF)), (names.RESIDENT, names.ONE_PROFILE))
        speed = engine.speed
        note = f"{speed.num_packed} linears packed, {'compiled' if speed.compiled else 'not compiled'}; "
        note += f"where 5 % are to fire, {fired:.1%} do"
        yield Contest(contenders, work.tokens, tuple(pairs), (note,))


def steered(model: LanguageModel, watching: Plan, firing: Plan) -> dict[str, list[Plan]]:
    """Contender -> the plans that take turns over its rows."""
    return {
        names.OFF: [Plan()],
        names.PRESENT_OFF: [replace(watching, mode="off")],
        names.ONE_PROFILE: [always(watching)],
        names.RESIDENT: resident_plans(always(watching)),
        names.WATCHING: [watching],
        names.FIRING_SOME: [firing],
        names.FIRING_ALL: [at_threshold(watching, -1.0)],
        names.TUNED: [tuned_plan(model)],
    }


def threshold_of(work: Workload, engine: Engine, watching: Plan, share: float) -> tuple[float, float]:
    """A threshold at which the gate opens at about this share of the tokens, and at how many it does.

    What a gate corrects changes what comes after, and with it the drift: so thresholds are tried, not computed.
    """
    observing = replace(watching, mode="observe", trace="tokens")
    drifts = sorted(t.reading.drift for a in work.run(engine, [observing]) for t in a.tokens if t.reading)
    low, high, found = 0, len(drifts) - 1, dict[float, float]()
    while low <= high and len(found) < TRIED:
        middle = max(low, high - round(share * len(drifts))) if not found else (low + high) // 2
        fired = _share_fired(work, engine, at_threshold(watching, drifts[middle]))
        found[drifts[middle]] = fired
        low, high = (middle + 1, high) if fired > share else (low, middle - 1)
    return min(found.items(), key=lambda tried: abs(tried[1] - share))


def _share_fired(work: Workload, engine: Engine, plan: Plan) -> float:
    receipts = [answer.finish.receipt for answer in work.run(engine, [plan])]
    return sum(r.fired_tokens for r in receipts) / sum(r.tokens for r in receipts)
