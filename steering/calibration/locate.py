"""Locate: the groups that carry the claim, by path patching between pressured prompts and their neutral twins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steering.calibration.localisation import Localisation, Question, Unit
from steering.calibration.patch_paths import patch_paths
from steering.calibration.twins import twins
from steering.contrast.source import Source
from steering.model.loading import LanguageModel

COUNTS = (1, 2, 4, 8)
"""Sizes of the sets that a ranking is cut into."""


def locate(
    model: LanguageModel, source: Source, seed: int, kept: Path | None = None
) -> tuple[Localisation, Localisation]:
    """Total and direct effect of every group, in the pairs that cave. kept: a folder to go on from.

    Raises `NothingToLocalise` if none caves.
    """
    pairs = twins(model, source, seed, per_question=1)
    total, direct = (
        patch_paths(model, pairs, Question("group", effect), kept=kept and kept / f"{effect}.jsonl")
        for effect in ("total", "direct")
    )
    return total, direct


def feeding(found: Localisation, pool: Sequence[Unit]) -> list[tuple[Unit, ...]]:
    """The strongest of the pool that feed the flip, in sets of growing size."""
    importance, among = found.importance, set(pool)
    leaders = [unit for unit in found.units if unit in among and importance[unit.layer, unit.index] < 0]
    return [tuple(leaders[:count]) for count in COUNTS if count <= len(leaders)]
