"""Plans of the kinds that calibration makes, for random models: what they cost does not depend on what they say."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import torch

from steering.correction import Correction, WeightCorrection
from steering.edit import Edit, Set, SparseWeights
from steering.gate import Gate
from steering.lens import TunedLens
from steering.model.loading import LanguageModel
from steering.pack import Pack, save_pack
from steering.plan import Detector, Plan
from steering.site import Site
from steering.unit import Unit

RESIDENT = 256
TUNED_SHARE = 0.04
"""Of the KV groups."""


def drift_plan(model: LanguageModel, *, threshold: float, num_layers: int = 3) -> Plan:
    """A plan shaped like the bundled one: a tuned lens half-way up, `Set` of two KV groups in each of the next blocks.

    threshold 1 never fires (the price of watching); threshold -1 fires at every token.
    """
    layout = model.layout
    early, D = layout.num_layers // 2, layout.d_model
    mask = torch.zeros(layout.width("attn_z"), dtype=torch.bool)
    mask[layout.group_features([0, 1])] = True
    edit = Set(torch.zeros(layout.width("attn_z")), mask)
    layers = range(early, min(early + num_layers, layout.num_layers))
    corrections = tuple(Correction(f"set-{layer}", Site("attn_z", layer), edit, Gate(kind="drift")) for layer in layers)
    detector = Detector(TunedLens(early, torch.zeros(D, D), torch.zeros(D)), threshold)
    return Plan(mode="on", profile="bench", corrections=corrections, detector=detector)


def always(plan: Plan) -> Plan:
    """The same corrections without a gate: every token of every row is corrected."""
    return replace(plan, corrections=tuple(replace(c, gate=Gate()) for c in plan.corrections))


def layers_plan(model: LanguageModel, num_layers: int) -> Plan:
    """Two KV groups in each of the lowest blocks, always; nothing is watched."""
    plan = always(drift_plan(model, threshold=1.0))
    edit = plan.corrections[0].edit
    corrections = tuple(Correction(f"set-{i}", Site("attn_z", i), edit) for i in range(num_layers))
    return replace(plan, corrections=corrections, detector=None)


def at_threshold(plan: Plan, threshold: float) -> Plan:
    return replace(plan, detector=plan.detector and replace(plan.detector, threshold=threshold))


def resident_plans(plan: Plan) -> list[Plan]:
    """As many profiles: each with edits, a threshold and a copy of the lens of its own."""
    return [replace(plan, profile=f"bench-{i}", detector=_own_detector(plan.detector, i),
                    corrections=tuple(replace(c, edit=_own_edit(c.edit, i)) for c in plan.corrections))
            for i in range(RESIDENT)]  # fmt: skip


def _own_edit(edit: Edit, i: int) -> Edit:
    return type(edit)(**{name: value.clone() if value.dtype == torch.bool else value + i / RESIDENT
                         for name, value in vars(edit).items()})  # fmt: skip


def _own_detector(detector: Detector | None, i: int) -> Detector | None:
    if detector is None or not isinstance(detector.lens, TunedLens):
        return detector
    lens = TunedLens(detector.lens.layer, detector.lens.weight.clone(), detector.lens.bias.clone())
    return replace(detector, lens=lens, threshold=detector.threshold + i / RESIDENT)


def tuned_plan(model: LanguageModel) -> Plan:
    """Changed weights of 4 % of the KV groups, in the blocks from half-way up."""
    layout = model.layout
    count = max(1, round(TUNED_SHARE * layout.num_layers * layout.num_groups))
    upper = itertools.product(range(layout.num_groups), range(layout.num_layers // 2, layout.num_layers))
    units = tuple(sorted(Unit("group", layer, group) for group, layer in itertools.islice(upper, count)))
    edit = SparseWeights(units, torch.full((layout.num_deltas(units), layout.d_model), 1e-4))
    return Plan(mode="on", profile="bench", weight_corrections=(WeightCorrection("weights", edit),))


def save_packs(model: LanguageModel, folder: Path, count: int) -> list[str]:
    """So many different profiles without a gate, for a server; returns their names."""
    plans = resident_plans(layers_plan(model, 3))[:count]
    for i, plan in enumerate(plans):
        pack = Pack(f"bench-{i}", "For the bench.", model.name, model.fingerprint, corrections=plan.corrections)
        save_pack(pack, folder / pack.name)
    return [f"bench-{i}" for i in range(count)]
