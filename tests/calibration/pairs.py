"""Pairs of random prompts that tiny random models cave in: the claim is what they say."""

from __future__ import annotations

import random

import torch

from steering.calibration.patch_paths import Pair
from steering.model.loading import LanguageModel

SHAPES = ((12, 9, 3), (10, 10, 2), (30, 33, 25))
"""(length of A, length of B, length of their common end)"""


@torch.no_grad()
def random_pairs(model: LanguageModel, shapes: tuple[tuple[int, int, int], ...] = SHAPES, seed: int = 0) -> list[Pair]:
    rng = random.Random(seed)
    pairs = []
    for long, short, common in shapes:
        end = [rng.randrange(6, 380) for _ in range(common)]
        # The tokens before the common end differ, so that it is no longer than it should be.
        pressured = [*(rng.randrange(6, 190) for _ in range(long - common)), *end]
        neutral = [*(rng.randrange(190, 380) for _ in range(short - common)), *end]
        claim, truth = model.hf(torch.tensor([pressured])).logits[0, -1].topk(2).indices.tolist()
        pairs.append(Pair(tuple(pressured), tuple(neutral), claim, truth))
    return pairs
