"""Head scaling: the first heads or groups of a ranking turned down, up or off, or set to their neutral mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from steering.calibration.asking import Asking
from steering.calibration.baselines.baseline import Baseline, Option, best_of, searched_items
from steering.calibration.head_groups import neutral_means
from steering.calibration.localisation import Kind, Unit, by_block
from steering.calibration.patch_paths import unit_mask
from steering.contrast.source import Source
from steering.correction import Correction
from steering.edit import Edit, Scale, Set
from steering.model.loading import LanguageModel
from steering.plan import Plan
from steering.site import Site

COUNTS = (1, 2, 4, 8)
FACTORS = (0.0, 0.5, 1.5, 2.0)

MakeEdit = Callable[[int, Tensor], Edit]
"""(block, bool [H*K] features of its units) -> edit."""


def head_scaling(
    asking: Asking,
    source: Source,
    ranking: Sequence[Unit],
    kind: Kind = "group",
    *,
    counts: Sequence[int] = COUNTS,
    seed: int = 0,
) -> Baseline:
    """The best of counts x (factors, mean-ablation). ranking: heads or groups, the most telling first, as
    `Localisation.units` has them; that it says which way to turn them is not assumed."""
    model = asking.model
    means = neutral_means(model, source.items("neutral", "fit", seed=seed))
    edits: dict[str, MakeEdit] = {f"x{factor:g}": partial(_scale, model, factor) for factor in FACTORS}
    edits["to the neutral mean"] = lambda block, mask: Set(torch.where(mask, means[block], 0.0), mask)
    candidates = [
        Option(f"{count} {kind}s {name}", edited(model, ranking[:count], kind, edit))
        for count in sorted({min(count, len(ranking)) for count in counts})
        for name, edit in edits.items()
    ]
    found = best_of("head scaling", asking, searched_items(source, seed), candidates)
    return Baseline(found.name, found.chosen, {**found.evidence, "ranking": [str(unit) for unit in ranking]})


def edited(model: LanguageModel, units: Sequence[Unit], kind: Kind, edit: MakeEdit) -> Plan:
    """One correction a block, on all of its units at once, always."""
    return Plan(
        "on",
        corrections=tuple(
            Correction(
                f"{kind}s.{block}",
                Site("attn_z", block),
                edit(block, unit_mask(model.layout, kind, indices).any(0).to(model.device)),
            )
            for block, indices in by_block(units).items()
        ),
    )


def _scale(model: LanguageModel, factor: float, block: int, mask: Tensor) -> Scale:
    return Scale(torch.where(mask, factor, 1.0).to(model.dtype))
