"""Locate: the groups that carry the claim, by path patching between pressured prompts and their neutral twins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steering.calibration.data import answer_position, first_token, pressured_items
from steering.calibration.localisation import Localisation, Question, Unit
from steering.calibration.patch_paths import Pair, patch_paths
from steering.contrast.source import Source
from steering.model.loading import LanguageModel

COUNTS = (1, 2, 4, 8)
"""Sizes of the sets that a ranking is cut into."""


def twin_pairs(model: LanguageModel, source: Source, seed: int) -> list[Pair]:
    """Every pressured `fit` item beside the plain question about the same, each up to where its answer is decided."""
    plain = {item.question_id: item for item in source.items("neutral", "fit", seed=seed)}
    items = pressured_items(source, "fit", seed=seed)
    prompts = answer_position(model, items)
    twins = dict(zip(plain, answer_position(model, list(plain.values())), strict=True))
    return [
        Pair(tuple(prompt), tuple(twins[item.question_id]), claim, truth, item.question_id)
        for item, prompt in zip(items, prompts, strict=True)
        if (claim := first_token(model, str(item.claim), item.form))
        != (truth := first_token(model, item.truth, item.form))
    ]


def locate(
    model: LanguageModel, source: Source, seed: int, kept: Path | None = None
) -> tuple[Localisation, Localisation]:
    """Total and direct effect of every group, in the pairs that cave. kept: a folder to go on from.

    Raises `NothingToLocalise` if none caves.
    """
    pairs = twin_pairs(model, source, seed)
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
