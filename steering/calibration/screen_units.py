"""Screen units: attribution patching, an estimate of path patching from one backward pass.

S changes, to first order, by (z_B - z_A) . dS/dz_A at a unit's features (Nanda 2023; Syed et al. 2023, arXiv
2310.10348): cheap enough for every unit, good enough to choose which to patch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from steering.calibration.localisation import Localisation, Question
from steering.calibration.patch_paths import Pair, at_ends, caving_pairs, claim_score, clusters, end_rows, unit_mask
from steering.evaluation.stats import Floats
from steering.model.gradient import record_gradients
from steering.model.loading import LanguageModel
from steering.model.record import Recording, record

PAIRS_AT_ONCE = 16


def screen_units(model: LanguageModel, pairs: Sequence[Pair], question: Question) -> Localisation:
    """Every unit, in every pair that caves. Raises `NothingToLocalise` if none does."""
    caving = caving_pairs(model, pairs)
    parts = [
        _screen(model, caving[first : first + PAIRS_AT_ONCE], question)
        for first in range(0, len(caving), PAIRS_AT_ONCE)
    ]
    pressured, neutral, patched = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    return Localisation(question, False, patched, pressured, neutral, clusters(caving), len(pairs))


def _screen(model: LanguageModel, pairs: Sequence[Pair], question: Question) -> tuple[Floats, Floats, Floats]:
    """(S in A [P], S in B [P], estimated S [L, U, P])."""
    layout, widths = model.layout, [pair.width(question) for pair in pairs]

    def score(recording: Recording) -> Tensor:
        return claim_score(layout, at_ends(recording), pairs)

    twins = record(model, [pair.neutral for pair in pairs])
    recording, gradients = record_gradients(
        model,
        [pair.pressured for pair in pairs],
        lambda recorded: score(recorded).sum(),
        through_attention=question.effect == "total",
    )
    own, others = end_rows(recording.lengths, widths), end_rows(twins.lengths, widths)
    pair_of_row = torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor(widths)).to(model.device)
    masks = unit_mask(layout, question.kind, range(question.num_units(layout))).to(model.device).double()
    with torch.no_grad():
        pressured, neutral = score(recording), score(twins)
        estimated = []
        for layer in range(layout.num_layers):
            change = (twins.attn_z[layer][others] - recording.attn_z[layer][own]) * gradients[layer][own]
            by_unit = masks @ change.double().T  # [U, M]
            moved = torch.zeros(len(masks), len(pairs), dtype=torch.double, device=model.device)
            estimated.append(pressured.double() + moved.index_add_(1, pair_of_row, by_unit))
    sides: list[Floats] = [s.double().cpu().numpy() for s in (pressured, neutral, torch.stack(estimated))]
    return sides[0], sides[1], sides[2]
