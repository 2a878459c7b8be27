"""Lenses by their own formulas; the candidate read-out is the full one, on fewer tokens."""

from __future__ import annotations

import math

import pytest
import torch

from steering.lens import Lens, LogitLens, drift, full_readout
from steering.model.layout import layout_of
from tests.models import tiny_hf
from tests.plans import tuned_lens

HF = tiny_hf().requires_grad_(False)
LAYOUT = layout_of(HF)
LENSES = [LogitLens(2), tuned_lens(LAYOUT, 2)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("lens", LENSES, ids=["logit", "tuned"])
def test_full_readout_is_the_formula(lens: Lens) -> None:
    h = noise(5, 64)
    translated = torch.stack([r + lens.weight @ r + lens.bias for r in h]) if lens is LENSES[1] else h  # type: ignore[union-attr]
    normed = translated * (translated.pow(2).mean(-1, keepdim=True) + HF.config.rms_norm_eps).rsqrt()
    expected = (normed * HF.model.norm.weight) @ HF.lm_head.weight.T
    assert torch.allclose(full_readout(lens, LAYOUT.unembed, h), expected, atol=1e-5)


@pytest.mark.parametrize("lens", LENSES, ids=["logit", "tuned"])
@pytest.mark.parametrize("C", [1, 64, 384])
def test_candidate_logits_are_the_full_ones_restricted(lens: Lens, C: int) -> None:
    h = noise(7, 64)
    ids = torch.stack([torch.randperm(384, generator=torch.Generator().manual_seed(i))[:C] for i in range(7)])
    restricted = LAYOUT.unembed.candidate_logits(lens.translate(h), ids)
    assert torch.allclose(restricted, full_readout(lens, LAYOUT.unembed, h).gather(-1, ids), atol=1e-5)


def test_the_unembedding_of_the_last_state_is_the_model() -> None:
    ids = torch.tensor([[7, 30, 99, 200]])
    output = HF(ids, use_cache=False, output_hidden_states=True)
    assert torch.allclose(LAYOUT.unembed.normed_logits(output.hidden_states[-1]), output.logits, atol=1e-5)


def test_drift_by_its_definition() -> None:
    early, late = noise(6, 20), 3 * noise(6, 20, seed=1)
    for row, bits in enumerate(drift(early, late).tolist()):
        p, q = early[row].double().softmax(-1).tolist(), late[row].double().softmax(-1).tolist()
        mean = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        terms = [a * math.log2(a / m) + b * math.log2(b / m) for a, b, m in zip(p, q, mean, strict=True)]
        assert bits == pytest.approx(sum(terms) / 2, abs=1e-6)


def test_drift_is_symmetric_and_between_0_and_1_bit() -> None:
    early, late = 5 * noise(50, 8), 5 * noise(50, 8, seed=1)
    assert torch.allclose(drift(early, late), drift(late, early), atol=1e-6)
    assert ((drift(early, late) >= 0) & (drift(early, late) <= 1)).all()
    assert drift(early, early + 3).max() < 1e-6
    apart = torch.tensor([[200.0, -200.0]])
    assert drift(apart, -apart).tolist() == [1.0]


def test_drift_of_a_row_is_its_own() -> None:
    early, late = noise(9, 16), noise(9, 16, seed=1)
    together = drift(early, late)
    assert torch.equal(together, torch.cat([drift(early[i : i + 1], late[i : i + 1]) for i in range(9)]))
