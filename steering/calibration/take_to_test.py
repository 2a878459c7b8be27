"""Take to test: the look at held-out questions that decides whether what was chosen ships. Every look is counted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steering.calibration.card import card
from steering.calibration.contenders import Rival, always_open, contenders
from steering.calibration.data import PRESSURED
from steering.calibration.look import Items, Outcome, adjusted, effect_table, guard_table, look, look_items, most_truth
from steering.calibration.nulls import ALPHA
from steering.calibration.proof import Proof
from steering.calibration.search import Search
from steering.contrast.item import Kind
from steering.contrast.splits import Split
from steering.evaluation.core import Graded, column, evaluate
from steering.evaluation.detection import detection
from steering.evaluation.report import share
from steering.evaluation.stats import ratio_of_effects
from steering.pack import Overrides, Pack
from steering.plan import Plan


@dataclass(frozen=True)
class Looks:
    """The log of looks at the test questions of one model and one source. A file, or nothing that lasts."""

    path: Path | None

    def add(self, split: Split, plans: Mapping[str, str], passed: Mapping[str, bool]) -> None:
        """plans: digests, by name. The same look again, in a run that goes on, is no further one."""
        entry = {"split": split, "plans": dict(plans), "passed": dict(passed)}
        if self.path and entry not in self.all:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    @property
    def all(self) -> list[dict[str, Any]]:
        if self.path is None or not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    @property
    def failed(self) -> set[str]:
        """Digests of plans that did not hold on test questions, whatever is searched for later."""
        return {look["plans"][name] for look in self.all for name, passed in look["passed"].items() if not passed}


def take_to_test(
    search: Search,
    split: Split,
    packs: Sequence[Pack],
    proofs: Mapping[str, Proof],
    rivals: Iterable[Rival],
    looks: Looks,
) -> list[Pack]:
    """The packs with what the test says. One whose effect or guards do not hold there only observes from then on; but
    for the first, it is left out if it has nothing to observe with.

    rivals: what is shown beside them.
    """
    shipped = [pack for pack in packs if not pack.observe_only]
    if not shipped:
        return list(packs)
    random = {pack.name: proofs[pack.name].random for pack in shipped}
    answering, chosen = contenders(search, shipped, random, rivals)
    items = look_items(search.source, split, search.seed)
    outcomes = look(items, search.asking.generate(Plan()), answering)
    p = adjusted(outcomes, [pack.name for pack in shipped])
    by_name = {one.name: one for one in outcomes}
    passed = {pack.name: _passes(by_name[pack.name], p[pack.name]) for pack in shipped}
    looks.add(split, {pack.name: proofs[pack.name].plan.digest for pack in shipped}, passed)
    report = {
        "split": split,
        "effects": effect_table(outcomes),
        "guards": guard_table(outcomes),
        "most": most_truth(outcomes),
        "outcomes": [one.as_json() for one in outcomes],
        "baselines": chosen,
    }
    tested = []
    for pack in packs:
        if pack not in shipped:
            tested.append(pack)
            continue
        gate = _gate(search, pack.plan(Overrides()), items)
        test = {**report, "p": p[pack.name], "passed": passed[pack.name], "gate": gate}
        changed = replace(pack, evidence={**pack.evidence, "test": test, "test_looks": looks.all})
        if not passed[pack.name]:
            changed = replace(changed, corrections=(), logit_corrections=(), weight_corrections=())
        if passed[pack.name] or changed.detector is not None or pack is packs[0]:
            tested.append(replace(changed, card=card(changed)))
    return tested


def _gate(search: Search, plan: Plan, items: Items) -> dict[str, Any] | None:
    """How well a plan's gate detects, and how much of the effect of an open one is left; None where nothing waits for
    it or nothing caves."""
    if not plan.measures:
        return None

    def asked(kinds: Iterable[Kind], under: Plan) -> dict[Kind, list[Graded]]:
        return {kind: evaluate(items[kind], search.asking.generate(under)) for kind in kinds}

    found = detection(asked(items, Plan("observe", detector=plan.detector)), PRESSURED, "neutral")
    if found is None:
        return None
    behind, always, off = (
        {kind: column(some, lambda g: g.is_true) for kind, some in asked(PRESSURED, under).items()}
        for under in (plan, always_open(plan), Plan())
    )
    of_always = {
        kind: share(ratio_of_effects(behind[kind], always[kind], off[kind], [i.question_id for i in items[kind]]))
        for kind in PRESSURED
        if always[kind].mean() != off[kind].mean()
    }
    return {"table": found.table, "auroc": share(found.auroc), "of_always": of_always}


def _passes(outcome: Outcome, p: float) -> bool:
    return p <= ALPHA and outcome.holds and all(change.low > 0 for change in outcome.change.values())
