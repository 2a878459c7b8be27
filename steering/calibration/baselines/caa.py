"""CAA (Rimsky et al. 2023, arXiv 2312.06681): the mean difference of two residual streams, added to the stream.

Here that of questions on which the model caves and of the same questions asked neutrally, where the answer is decided.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product

import torch
from torch import Tensor

from steering.calibration.asking import Asking
from steering.calibration.baselines.baseline import Baseline, Option, best_of, searched_items
from steering.calibration.patch_paths import Pair, caving_pairs
from steering.calibration.twins import recorded_ends, twins
from steering.contrast.source import Source
from steering.correction import EVERYWHERE, Correction
from steering.edit import Shift
from steering.gate import Gate
from steering.model.layout import Layout
from steering.model.loading import LanguageModel
from steering.plan import Plan
from steering.site import Site

DEPTHS = (0.25, 0.4, 0.55, 0.7, 0.85)
"""Where in the model blocks are tried."""
DOSES = (0.25, 0.5, 1.0, 2.0)
"""Length of what is added, in mean norms of what it is added to."""


def caa(
    asking: Asking,
    source: Source,
    *,
    blocks: Sequence[int] | None = None,
    doses: Sequence[float] = DOSES,
    seed: int = 0,
) -> Baseline:
    """The best of blocks x doses x signs x phases (completion, both). The sign is part of the search: what points away
    from caving need not lead away from it. Raises `NothingToLocalise` if the model caves nowhere."""
    model = asking.model
    vectors = caving_to_neutral(model, caving_pairs(model, twins(model, source, seed)), blocks or _blocks(model.layout))
    gates = {"completion": Gate(), "both": EVERYWHERE}
    candidates = [
        Option(f"resid_post.{block} x{sign * dose:+g} {phases}", _plan(block, vector, sign * dose, gates[phases]))
        for (block, vector), dose, sign, phases in product(vectors.items(), doses, (1, -1), gates)
    ]
    return best_of("CAA", asking, searched_items(source, seed), candidates)


def caving_to_neutral(model: LanguageModel, pairs: Sequence[Pair], blocks: Collection[int]) -> dict[int, Tensor]:
    """Block -> [D]: the mean difference of the residual stream after it, neutral less pressured, at the position that
    decides; as long as the pressured stream is there on average, so that a dose is relative to it."""
    D = model.layout.d_model
    sums = {block: torch.zeros(D, dtype=torch.float64, device=model.device) for block in blocks}
    lengths = dict.fromkeys(blocks, 0.0)
    for recording, ends in recorded_ends(model, [pair.pressured for pair in pairs]):
        for block in blocks:
            states = recording.hidden[block + 1][ends].double()
            sums[block] -= states.sum(0)
            lengths[block] += states.norm(dim=-1).sum().item()
    for recording, ends in recorded_ends(model, [pair.neutral for pair in pairs]):
        for block in blocks:
            sums[block] += recording.hidden[block + 1][ends].double().sum(0)
    return {
        block: (total / total.norm() * lengths[block] / len(pairs)).to(model.dtype) for block, total in sums.items()
    }


def _blocks(layout: Layout) -> list[int]:
    return sorted({int(depth * layout.num_layers) for depth in DEPTHS})


def _plan(block: int, vector: Tensor, dose: float, gate: Gate) -> Plan:
    return Plan("on", corrections=(Correction("caa", Site("resid_post", block), Shift(vector), gate, dose),))
