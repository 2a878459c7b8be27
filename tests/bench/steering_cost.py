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


def cells(shapes: Iterable[str], batches: Iterable[int], kinds: Iterable[str], new: int) -> Iterator[Cell]:
    batches = list(batches)
    for kind in kinds:
        for shape in shapes:
            for batch in batches:
                work = Workload(shape, batch, 64 + new, new)
                yield Cell(f"steering, {kind}", shape, batch, work.context, partial(contest, work, kind))


@contextmanager
def contest(work: Workload, kind: str) -> Iterator[Contest]:
    with engine_of(work, kind) as (model, engine):
        plans = steered(work, model, engine)
        contenders = {name: timed(partial(work.run, engine, own)) for name, own in plans.items()}
        pairs = [(name, names.OFF) for name in plans if name != names.OFF]
        pairs.insert(pairs.index((names.RESIDENT, names.OFF)), (names.RESIDENT, names.ONE_PROFILE))
        speed = engine.speed
        note = f"{speed.num_packed} linears packed, {'compiled' if speed.compiled else 'not compiled'}"
        yield Contest(contenders, work.tokens, tuple(pairs), (note,))


def steered(work: Workload, model: LanguageModel, engine: Engine) -> dict[str, list[Plan]]:
    """Contender -> the plans that take turns over its rows."""
    watching = drift_plan(model, threshold=1.0)
    return {
        names.OFF: [Plan()],
        names.PRESENT_OFF: [replace(watching, mode="off")],
        names.ONE_PROFILE: [always(watching)],
        names.RESIDENT: resident_plans(always(watching)),
        names.WATCHING: [watching],
        names.FIRING_SOME: [at_threshold(watching, threshold_of(work, engine, watching, 0.05))],
        names.FIRING_ALL: [at_threshold(watching, -1.0)],
        names.TUNED: [tuned_plan(model)],
    }


def threshold_of(work: Workload, engine: Engine, watching: Plan, share: float) -> float:
    """What the drift of this share of the tokens exceeds, before a gate changes any."""
    observing = replace(watching, mode="observe", trace="tokens")
    drifts = sorted(t.reading.drift for a in work.run(engine, [observing]) for t in a.tokens if t.reading)
    return drifts[-round(share * len(drifts)) - 1]
