"""Read drift: how far each layer is from what the output says, at the first token of an answer and along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steering.evaluation.stats import Floats
from steering.lens import Lens, drift, full_readout
from steering.model.loading import LanguageModel
from steering.model.record import Recording, record

NUM_CUTS = 10


@dataclass(frozen=True)
class Sides:
    """The tokens with which the right answer and the user's begin."""

    truth: int
    claim: int


@dataclass(frozen=True, eq=False)
class Readings:
    """What the lens layers 1 .. L-1, and the output as layer L, say at k positions."""

    drift: Floats
    """[L, k] Jensen-Shannon divergence from the output, in bits, over the whole vocabulary"""
    truth: Floats | None
    """[L, k] probability of the truth's token; None where nobody named it"""
    claim: Floats | None
    """[L, k] probability of the claim's"""
    preference: Floats | None
    """[L, k] logit(truth) - logit(claim) (Feng et al. 2026, arXiv 2603.16643)"""

    def as_json(self) -> dict[str, Any]:
        return {name: None if values is None else values.tolist() for name, values in vars(self).items()}


def at_ends(
    model: LanguageModel, lenses: Mapping[int, Lens], texts: Sequence[Sequence[int]], sides: Sides | None
) -> Readings:
    """After each text: k texts."""
    recording = record(model, texts, ())
    return _read(model, lenses, recording, [end - 1 for end in recording.ends], sides)


def along(
    model: LanguageModel, lenses: Mapping[int, Lens], prompt: Sequence[int], answer: Sequence[int], sides: Sides | None
) -> tuple[Readings, list[int]]:
    """Where the answer's tokens at the cuts were decided: (readings, index of each cut's token in the answer)."""
    at = cuts(len(answer))
    recording = record(model, [[*prompt, *answer]], ())
    return _read(model, lenses, recording, [len(prompt) - 1 + i for i in at], sides), at


def probed(
    model: LanguageModel,
    lenses: Mapping[int, Lens],
    prompt: Sequence[int],
    answer: Sequence[int],
    probe: Sequence[int],
    sides: Sides,
) -> Readings:
    """The same cuts, but the answer is broken off before each and its conclusion asked for by `probe`."""
    return at_ends(model, lenses, [[*prompt, *answer[:i], *probe] for i in cuts(len(answer))], sides)


def cuts(length: int) -> list[int]:
    """Up to NUM_CUTS tokens of an answer, from its first to its last, evenly apart."""
    if length < 1:
        raise ValueError("an answer to cut must have a token")
    return sorted({round(i * (length - 1) / (NUM_CUTS - 1)) for i in range(NUM_CUTS)})


@torch.no_grad()
def _read(
    model: LanguageModel, lenses: Mapping[int, Lens], recording: Recording, rows: Sequence[int], sides: Sides | None
) -> Readings:
    unembed, L = model.layout.unembed, model.layout.num_layers
    at = torch.tensor(rows, device=model.device)
    output = unembed.logits(recording.hidden[L][at]).float()
    bits, by_side = list[Tensor](), list[Tensor]()
    for layer in range(1, L + 1):
        logits = output if layer == L else full_readout(lenses[layer], unembed, recording.hidden[layer][at]).float()
        bits.append(drift(torch.stack([logits, output]).log_softmax(-1)))
        if sides is not None:
            read = torch.stack([logits.softmax(-1), logits])
            by_side.append(read[..., [sides.truth, sides.claim]])
    if not by_side:
        return Readings(_array(bits), None, None, None)
    read = torch.stack(by_side)  # [L, probability or logit, k, side]
    return Readings(
        _array(bits), _array(read[:, 0, :, 0]), _array(read[:, 0, :, 1]), _array(read[:, 1, :, 0] - read[:, 1, :, 1])
    )


def _array(values: Tensor | Sequence[Tensor]) -> Floats:
    stacked = values if isinstance(values, Tensor) else torch.stack(list(values))
    array: Floats = stacked.double().cpu().numpy()
    return array
