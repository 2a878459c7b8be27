"""Contenders: everything that a correction is shown beside when the test questions are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from steering.calibration.baselines.baseline import Baseline
from steering.calibration.baselines.caa import caa
from steering.calibration.baselines.dola import dola
from steering.calibration.baselines.head_scaling import head_scaling
from steering.calibration.baselines.iti import iti
from steering.calibration.baselines.system_prompt import HONEST_PROMPTS, system_prompt
from steering.calibration.baselines.wrong_sign import opposite
from steering.calibration.card import IMPOSSIBLE
from steering.calibration.localisation import Localisation
from steering.calibration.prove_tuned import fine_tuned
from steering.calibration.search import Search
from steering.correction import by_kind
from steering.errors import CalibrationError, TemplateError
from steering.evaluation.core import Generate
from steering.gate import Gate
from steering.pack import Overrides, Pack
from steering.plan import Plan

Evidence = Mapping[str, object]

Rival = tuple[str, Callable[[], tuple[Generate, Evidence]]]
"""A name, and what makes it: how it answers, and how it was chosen."""


def contenders(
    search: Search,
    packs: Sequence[Pack],
    random: Mapping[str, Plan],
    rivals: Iterable[Rival],
) -> tuple[dict[str, Generate], dict[str, Evidence]]:
    """Name -> how it answers; and what was chosen for each baseline, or why there is none.

    random: by the name of a pack, random units in the place of those that were found.
    """
    plans: dict[str, Plan] = {}
    for pack in packs:
        plan = pack.plan(Overrides())
        plans[pack.name] = plan
        if plan.measures:
            plans[f"{pack.name}, gate always"] = always_open(plan)
        plans[f"{pack.name}, random units"] = random[pack.name]
        plans[f"{pack.name}, wrong sign"] = replace(plan, **by_kind(opposite(plan.all_corrections)))
    answering = {name: search.asking.generate(plan) for name, plan in plans.items()}
    evidence = dict[str, Evidence]()
    for name, make in rivals:
        try:
            answering[name], evidence[name] = make()
        except (CalibrationError, TemplateError, torch.OutOfMemoryError) as error:
            search.log(f"no {name}: {error}")
            evidence[name] = {IMPOSSIBLE: str(error)}
    return answering, evidence


def baselines(search: Search, located: Localisation | None, *, tuned: bool) -> Iterator[Rival]:
    """tuned: with full fine-tuning. Whether the model allows one shows when it is made."""
    asking, source, seed = search.asking, search.source, search.seed
    prompts = (*HONEST_PROMPTS, *source.honest_prompts)

    def answered(make: Callable[[], Baseline]) -> Callable[[], tuple[Generate, Evidence]]:
        def made() -> tuple[Generate, Evidence]:
            baseline = make()
            return baseline.through(asking.generate(baseline.plan)), baseline.evidence

        return made

    yield "system prompt", answered(lambda: system_prompt(asking, source, prompts=prompts, seed=seed))
    yield "CAA", answered(lambda: caa(asking, source, seed=seed))
    yield "ITI", answered(lambda: iti(asking, source, seed=seed))
    yield "DoLa", answered(lambda: dola(asking, source, seed=seed))
    if located:
        yield "head scaling", answered(lambda: head_scaling(asking, source, located.units, seed=seed))
    if tuned:
        yield "full fine-tuning", lambda: fine_tuned(search)


def always_open(plan: Plan) -> Plan:
    """The same corrections without a gate to wait for."""
    return replace(plan, corrections=tuple(replace(c, gate=Gate()) for c in plan.corrections))
