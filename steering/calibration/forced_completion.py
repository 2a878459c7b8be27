"""Forced completion: how states move, layer by layer, when the right or the wrong answer is put in a model's mouth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steering.evaluation.stats import Floats
from steering.model.loading import LanguageModel
from steering.model.record import record

TEXTS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Geometry:
    """Displacement: the state at a forced token minus the state at the prompt's end. hidden_states[0..L], n prompts."""

    angle: Floats
    """[L+1, n] degrees between the displacement to the truth and that to the claim"""
    truth_norm: Floats
    """[L+1, n] norm of the displacement to the truth, in norms of the state at the prompt's end"""
    claim_norm: Floats
    """[L+1, n] the same to the claim"""

    def as_json(self) -> dict[str, Any]:
        """Means over the prompts, by hidden state."""
        return {
            "angle": self.angle.mean(1).tolist(),
            "truth_norm": self.truth_norm.mean(1).tolist(),
            "claim_norm": self.claim_norm.mean(1).tolist(),
        }


def forced_completion(
    model: LanguageModel, prompts: Sequence[Sequence[int]], truths: Sequence[int], claims: Sequence[int]
) -> Geometry:
    """Each prompt twice, with the first token of its right and of its wrong answer after it."""
    before, right, wrong = (
        torch.cat(parts, dim=1) for parts in zip(*_states(model, prompts, truths, claims), strict=True)
    )
    to_right, to_wrong = right - before, wrong - before
    cosine = torch.nn.functional.cosine_similarity(to_right, to_wrong, dim=-1).clamp(-1, 1)
    size = before.norm(dim=-1)
    return Geometry(
        _array(cosine.acos().rad2deg()), _array(to_right.norm(dim=-1) / size), _array(to_wrong.norm(dim=-1) / size)
    )


def _states(
    model: LanguageModel, prompts: Sequence[Sequence[int]], truths: Sequence[int], claims: Sequence[int]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """[L+1, n, D] each: at the end of the prompt, at the right token, at the wrong one."""
    parts = []
    for first in range(0, len(prompts), TEXTS_AT_ONCE):
        some = slice(first, first + TEXTS_AT_ONCE)
        forced = zip([*prompts[some]] * 2, [*truths[some], *claims[some]], strict=True)
        recording = record(model, [[*prompt, token] for prompt, token in forced], ())
        ends = torch.tensor(recording.ends, device=model.device) - 1
        hidden = torch.stack([recording.hidden[i] for i in range(len(recording.hidden))]).double()
        right, wrong = ends.chunk(2)
        parts.append((hidden[:, right - 1], hidden[:, right], hidden[:, wrong]))
    return parts


def _array(values: Tensor) -> Floats:
    array: Floats = values.double().cpu().numpy()
    return array
