"""Take to test: the look at held-out questions that decides whether what was chosen ships. Every look is counted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from steering.calibration.card import card
from steering.calibration.contenders import contenders
from steering.calibration.localisation import Localisation
from steering.calibration.look import Outcome, adjusted, effect_table, guard_table, look, look_items
from steering.calibration.nulls import ALPHA
from steering.calibration.proof import Proof
from steering.calibration.search import Search
from steering.contrast.splits import Split
from steering.pack import Pack
from steering.plan import Plan


@dataclass(frozen=True)
class Looks:
    """The log of looks at the test questions of one model and one source. A file, or nothing that lasts."""

    path: Path | None

    def add(self, split: Split, pack_plans: Mapping[str, str]) -> list[dict[str, object]]:
        """Logs a look, and returns all of them. One at the same plans as the last is the same look, gone on with."""
        seen = self._read()
        entry: dict[str, object] = {"split": split, "plans": dict(pack_plans)}
        if not seen or seen[-1] != entry:
            seen.append(entry)
            if self.path:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_text("".join(json.dumps(one) + "\n" for one in seen))
        return seen

    def _read(self) -> list[dict[str, object]]:
        if self.path is None or not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def take_to_test(
    search: Search,
    split: Split,
    packs: Sequence[Pack],
    proofs: Mapping[str, Proof],
    located: Localisation | None,
    looks: Looks,
) -> list[Pack]:
    """The packs with what the test says. One whose effect or guards do not hold there only observes from then on; but
    for the first, it is left out if it has nothing to observe with."""
    shipped = [pack for pack in packs if not pack.observe_only]
    if not shipped:
        return list(packs)
    random = {pack.name: proofs[pack.name].random for pack in shipped}
    answering, chosen = contenders(search, shipped, random, located)
    seen = looks.add(split, {pack.name: proofs[pack.name].plan.digest for pack in shipped})
    items = look_items(search.source, split, search.seed)
    outcomes = look(items, search.asking.generate(Plan()), answering)
    p = adjusted(outcomes, [pack.name for pack in shipped])
    by_name = {one.name: one for one in outcomes}
    report = {
        "split": split,
        "effects": effect_table(outcomes),
        "guards": guard_table(outcomes),
        "outcomes": [one.as_json() for one in outcomes],
        "baselines": chosen,
    }
    tested = []
    for pack in packs:
        if pack not in shipped:
            tested.append(pack)
            continue
        passed = _passes(by_name[pack.name], p[pack.name])
        evidence = {**pack.evidence, "test": {**report, "p": p[pack.name], "passed": passed}, "test_looks": seen}
        changed = replace(pack, evidence=evidence)
        if not passed:
            changed = replace(changed, corrections=(), logit_corrections=(), weight_corrections=())
        if passed or changed.detector is not None or pack is packs[0]:
            tested.append(replace(changed, card=card(changed)))
    return tested


def _passes(outcome: Outcome, p: float) -> bool:
    return p <= ALPHA and outcome.holds and all(change.low > 0 for change in outcome.change.values())
