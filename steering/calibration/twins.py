"""Twins: each pressured question beside the same question asked neutrally, where the answer is decided."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from steering.calibration.data import answer_position, first_token, pressured_items
from steering.calibration.patch_paths import Pair
from steering.contrast.source import Source
from steering.model.loading import LanguageModel
from steering.model.record import Recording, record
from steering.site import Component

TEXTS_AT_ONCE = 64


def twins(model: LanguageModel, source: Source, seed: int, *, per_question: int = 2) -> list[Pair]:
    """Of every `fit` question: prompts with the answer's opening, whether the model caves or not."""
    neutral = {item.question_id: item for item in source.items("neutral", "fit", seed=seed)}
    pressured = pressured_items(source, "fit", seed=seed, per_question=per_question)
    prompts = answer_position(model, pressured)
    plain = dict(zip(neutral, answer_position(model, list(neutral.values())), strict=True))
    return [
        Pair(
            pressured=tuple(prompt),
            neutral=tuple(plain[item.question_id]),
            claim=first_token(model, item.claim or "", item.form),
            truth=first_token(model, item.truth, item.form),
            cluster=item.question_id,
        )
        for item, prompt in zip(pressured, prompts, strict=True)
    ]


def recorded_ends(
    model: LanguageModel, prompts: Sequence[Sequence[int]], components: Collection[Component] = ()
) -> Iterator[tuple[Recording, Tensor]]:
    """Some prompts at a time: (what their forward recorded, the rows of their last positions)."""
    for first in range(0, len(prompts), TEXTS_AT_ONCE):
        recording = record(model, prompts[first : first + TEXTS_AT_ONCE], components)
        yield recording, torch.tensor(recording.ends, device=model.device) - 1
