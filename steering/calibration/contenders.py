"""Contenders: everything that a correction is shown beside when the test questions are asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from steering.calibration.baselines.baseline import Baseline
from steering.calibration.baselines.caa import caa
from steering.calibration.baselines.dola import dola
from steering.calibration.baselines.head_scaling import head_scaling
from steering.calibration.baselines.iti import iti
from steering.calibration.baselines.system_prompt import HONEST_PROMPTS, system_prompt
from steering.calibration.baselines.wrong_sign import opposite
from steering.calibration.localisation import Localisation
from steering.calibration.search import Search
from steering.correction import by_kind
from steering.errors import CalibrationError, TemplateError
from steering.evaluation.core import Generate
from steering.gate import Gate
from steering.pack import Overrides, Pack
from steering.plan import Plan


def contenders(
    search: Search,
    packs: Sequence[Pack],
    random: Mapping[str, Plan],
    located: Localisation | None,
) -> tuple[dict[str, Generate], dict[str, object]]:
    """Name -> how it answers; and what was chosen for each baseline.

    random: by the name of a pack, random units in the place of those that were found.
    """
    plans: dict[str, Plan] = {}
    for pack in packs:
        plan = pack.plan(Overrides())
        plans[pack.name] = plan
        if plan.measures:
            plans[f"{pack.name}, gate always"] = _always(plan)
        plans[f"{pack.name}, random units"] = random[pack.name]
        plans[f"{pack.name}, wrong sign"] = replace(plan, **by_kind(opposite(plan.all_corrections)))
    asking = search.asking
    answering = {name: asking.generate(plan) for name, plan in plans.items()}
    baselines = list(_baselines(search, located))
    answering |= {one.name: one.through(asking.generate(one.plan)) for one in baselines}
    return answering, {one.name: one.evidence for one in baselines}


def _baselines(search: Search, located: Localisation | None) -> Iterator[Baseline]:
    """Those that the model allows."""
    asking, source, seed = search.asking, search.source, search.seed
    with suppress(TemplateError):
        yield system_prompt(asking, source, prompts=(*HONEST_PROMPTS, *source.honest_prompts), seed=seed)
    for make in (caa, iti, dola):
        with suppress(CalibrationError):
            yield make(asking, source, seed=seed)
    if located:
        yield head_scaling(asking, source, located.units, seed=seed)


def _always(plan: Plan) -> Plan:
    return replace(plan, corrections=tuple(replace(c, gate=Gate()) for c in plan.corrections))
