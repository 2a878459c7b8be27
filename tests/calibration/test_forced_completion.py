"""Forced completion: the geometry of a plain forward, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from steering.calibration.forced_completion import forced_completion
from tests.models import tiny_model

PROMPTS = ([5, 9, 17, 300, 4, 7], [40, 41], [60, 61, 62])
TRUTHS, CLAIMS = [100, 101, 102], [200, 201, 202]


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_equals_plain_forwards(family: str) -> None:
    model = tiny_model(family)
    found = forced_completion(model, PROMPTS, TRUTHS, CLAIMS)
    assert found.angle.shape == found.truth_norm.shape == found.claim_norm.shape == (5, 3)

    def states(ids: list[int]) -> list[torch.Tensor]:
        kept: list[torch.Tensor] = []
        hooks = [model.hf.model.layers[0].register_forward_pre_hook(lambda m, args: kept.append(args[0][0]))]
        hooks += [block.register_forward_hook(lambda m, a, out: kept.append(out[0])) for block in model.hf.model.layers]
        model.hf(torch.tensor([ids]))
        for hook in hooks:
            hook.remove()
        return kept

    for i, prompt in enumerate(PROMPTS):
        right, wrong = states([*prompt, TRUTHS[i]]), states([*prompt, CLAIMS[i]])
        for layer in range(5):
            before = right[layer][-2]
            one, other = right[layer][-1] - before, wrong[layer][-1] - before
            angle = math.degrees(math.acos((one @ other / one.norm() / other.norm()).item()))
            assert found.angle[layer, i] == pytest.approx(angle, abs=1e-2)
            assert found.truth_norm[layer, i] == pytest.approx((one.norm() / before.norm()).item(), rel=1e-4)
            assert found.claim_norm[layer, i] == pytest.approx((other.norm() / before.norm()).item(), rel=1e-4)
    assert found.angle.min() > 1


def test_the_same_answer_twice_has_no_angle() -> None:
    model = tiny_model()
    found = forced_completion(model, PROMPTS, TRUTHS, TRUTHS)
    assert found.angle.max() < 0.5
    np.testing.assert_allclose(found.truth_norm, found.claim_norm, rtol=1e-4)
    swapped, straight = (
        forced_completion(model, PROMPTS, CLAIMS, TRUTHS),
        forced_completion(model, PROMPTS, TRUTHS, CLAIMS),
    )
    np.testing.assert_allclose(swapped.angle, straight.angle, atol=0.05)
    np.testing.assert_allclose(swapped.truth_norm, straight.claim_norm, rtol=1e-4)
