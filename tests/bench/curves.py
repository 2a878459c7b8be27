"""How what steering costs grows: with rows that are steered, with blocks that are, and with the context."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from steering.model.loading import LanguageModel
from steering.plan import Plan
from tests.bench import names
from tests.bench.models import SHAPES
from tests.bench.profiles import always, drift_plan, layers_plan
from tests.bench.rounds import Cell, Contest, timed
from tests.bench.workload import Workload, engine_of

ROWS, LAYERS_BATCH, CONTEXT_BATCH = 32, 8, 4


def cells(shapes: Iterable[str], contexts: Iterable[int], kind: str, new: int) -> Iterator[Cell]:
    contexts = list(contexts)
    for shape in shapes:
        by_rows, by_layers = Workload(shape, ROWS, 64 + new, new), Workload(shape, LAYERS_BATCH, 64 + new, new)
        yield _cell("curve, rows", by_rows, kind)
        yield _cell("curve, layers", by_layers, kind)
        for context in contexts:
            yield _cell("curve, context", Workload(shape, CONTEXT_BATCH, context, new, keeps_prompts=True), kind)


def _cell(section: str, work: Workload, kind: str) -> Cell:
    return Cell(section, work.shape, work.batch, work.context, partial(contest, section, work, kind))


@contextmanager
def contest(section: str, work: Workload, kind: str) -> Iterator[Contest]:
    with engine_of(work, kind) as (model, engine):
        plans = {"curve, rows": by_rows, "curve, layers": by_layers, "curve, context": by_context}[section](model)
        contenders = {name: timed(partial(work.run, engine, own)) for name, own in plans.items()}
        yield Contest(contenders, work.tokens, tuple((name, names.OFF) for name in plans if name != names.OFF))


def by_rows(model: LanguageModel) -> Mapping[str, Sequence[Plan]]:
    steered = always(drift_plan(model, threshold=1.0))
    some = {f"{n} rows steered": [steered] * n + [Plan()] * (ROWS - n) for n in (1, 4, 8, 16, 24, 32)}
    return {names.OFF: [Plan()], **some}


def by_layers(model: LanguageModel) -> Mapping[str, Sequence[Plan]]:
    L = SHAPES[model.name]["num_hidden_layers"]
    counts = sorted({1, 2, 4, L // 2, 3 * L // 4, L})
    return {names.OFF: [Plan()]} | {f"{n} blocks steered": [layers_plan(model, n)] for n in counts if n <= L}


def by_context(model: LanguageModel) -> Mapping[str, Sequence[Plan]]:
    watching = drift_plan(model, threshold=1.0)
    return {names.OFF: [Plan()], names.ONE_PROFILE: [always(watching)], names.WATCHING: [watching]}
