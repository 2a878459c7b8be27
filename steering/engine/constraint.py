"""Constraint: which tokens an answer may go on with, as the engine sees it: ids and bits, no grammar.

Masks act on the logits a token is drawn from, after steering, penalties and bias. A guide moves with committed tokens
alone, so a position that is run again is drawn under the same mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

_LEAST = -1e30
"""In place of -inf for tokens that a contrast ruled out: where the mask leaves no others, one of them is drawn. Finite
at any temperature that is not greedy."""


class Guide(Protocol):
    """Where one answer stands."""

    def write_mask(self, mask: Tensor) -> None:
        """Fills zeros, int32 [ceil(V / 32)] on the CPU: bit i % 32 of word i // 32 is set iff token i may come next.
        Tokens that end an answer may only where it may end; at least one bit is set."""

    def advance(self, token_id: int) -> None:
        """A token was committed, one that the mask allowed and that does not end the answer."""

    @property
    def complete(self) -> bool:
        """Nothing can follow: the answer ends here."""

    @property
    def failed(self) -> bool:
        """The constraint ran into a limit of its own, and its masks mean nothing any more."""


class Constraint(Protocol):
    """What a whole answer must be. Immutable: any number of answers may be under way."""

    def start(self) -> Guide:
        """At the beginning of an answer."""


def restrict(guides: Mapping[int, Guide], scores: Tensor) -> None:
    """Rules out (-inf) in float32 `scores` [R, V] what the guides do not allow, in place; rows without one stay."""
    if not guides:
        return
    V = scores.shape[-1]
    words = torch.zeros(len(guides), -(-V // 32), dtype=torch.int32)
    for mask, guide in zip(words, guides.values(), strict=True):
        guide.write_mask(mask)
    index = torch.tensor(list(guides), device=scores.device)
    bits = torch.arange(32, dtype=torch.int32, device=scores.device)
    allowed = (words.to(scores.device)[..., None] >> bits & 1).bool().flatten(1)[:, :V]
    scores[index] = scores[index].clamp_min(_LEAST).masked_fill(~allowed, -torch.inf)
