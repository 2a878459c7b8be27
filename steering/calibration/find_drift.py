"""Find drift: at which layer the truth is best read under pressure, and where on the way up it is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.calibration.data import answer_position, first_token
from steering.contrast.item import Item
from steering.evaluation.stats import Floats, paired_difference
from steering.lens import Lens, full_readout
from steering.model.loading import LanguageModel
from steering.model.record import record

ITEMS_AT_ONCE = 64
LOSS = 0.10
"""Fall of P(truth), below the best layer's, that counts as lost."""
GAP = 0.20
"""P(truth) of the best layer above the output's, without which there is no drift."""


@dataclass(frozen=True)
class LayerReads:
    """What each lens layer 1 .. L-1, and the output as layer L, says where the answer's first token is decided."""

    truth: Tensor
    """[L, n] probability of the truth's first token"""
    top: Tensor
    """[L, n] most probable token id"""
    rank: Tensor
    """[L, n] rank of that token in the output's distribution, from 0"""
    truth_ids: Tensor
    """[n]"""
    claim_ids: Tensor
    """[n]"""

    def top_is_truth(self, layer: int) -> float:
        return (self.top[layer - 1] == self.truth_ids).float().mean().item()

    def top_is_claim(self, layer: int) -> float:
        return (self.top[layer - 1] == self.claim_ids).float().mean().item()

    def truth_at(self, layer: int) -> Floats:
        """[n] P(truth), for `stats`."""
        values: Floats = self.truth[layer - 1].double().numpy()
        return values

    def top_is_candidate(self, layer: int, num_candidates: int) -> float:
        """How often a read-out of the output's most probable tokens alone would show the same first choice."""
        return (self.rank[layer - 1] < num_candidates).float().mean().item()

    @property
    def output(self) -> int:
        return len(self.top)

    @property
    def best_layer(self) -> int:
        """The early layer that most often reads the truth; the lowest of equals."""
        return max(range(1, self.output), key=lambda layer: (self.top_is_truth(layer), -layer))


def read_layers(model: LanguageModel, lenses: Mapping[int, Lens], items: Sequence[Item]) -> LayerReads:
    """Full read-outs at the answer position of items that make a claim."""
    truth_ids = torch.tensor([first_token(model, item.truth, item.form) for item in items])
    claim_ids = torch.tensor([first_token(model, str(item.claim), item.form) for item in items])
    parts = [
        _read(model, lenses, items[i : i + ITEMS_AT_ONCE], truth_ids[i : i + ITEMS_AT_ONCE])
        for i in range(0, len(items), ITEMS_AT_ONCE)
    ]
    truth, top, rank = (torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
    return LayerReads(truth, top, rank, truth_ids, claim_ids)


def find_onset(reads: LayerReads, clusters: Sequence[str]) -> int | None:
    """First block whose output has lost the truth that the best layer reads; None: no drift to correct."""
    best = reads.truth_at(reads.best_layer)
    if (best - reads.truth_at(reads.output)).mean() < GAP:
        return None
    for layer in range(reads.best_layer + 1, reads.output + 1):
        fall = paired_difference(best, reads.truth_at(layer), clusters)
        if fall.estimate >= LOSS and fall.low > 0:
            return layer - 1  # hidden state i is what block i-1 puts out
    return None


def _read(
    model: LanguageModel, lenses: Mapping[int, Lens], items: Sequence[Item], truth_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    recording = record(model, answer_position(model, items))
    rows = torch.tensor(recording.ends) - 1
    unembed, last = model.layout.unembed, model.layout.num_layers
    logits = [full_readout(lenses[layer], unembed, recording.hidden[layer][rows]) for layer in range(1, last)]
    probs = torch.stack([*logits, unembed.logits(recording.hidden[last][rows])]).float().softmax(-1).cpu()
    truth = probs.gather(-1, truth_ids.expand(last, -1)[..., None]).squeeze(-1)
    top = probs.argmax(-1)
    rank = (probs[-1] > probs[-1].gather(-1, top.T).T[..., None]).sum(-1)
    return truth, top, rank
