"""Lenses by their own formulas; the candidate read-out is the full one, on fewer tokens."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import PreTrainedModel

from steering.lens import Lens, LogitLens, drift, full_readout
from steering.model.layout import layout_of
from tests.models import FAMILY_FIELDS, tiny_hf
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
    h = noise(19, 64)  # more than are read at once
    ids = torch.stack([torch.randperm(384, generator=torch.Generator().manual_seed(i))[:C] for i in range(19)])
    restricted = LAYOUT.unembed.candidate_logits(lens.translate(h), ids)
    assert torch.allclose(restricted, full_readout(lens, LAYOUT.unembed, h).gather(-1, ids), atol=1e-5)


@pytest.mark.parametrize("family", FAMILY_FIELDS)
def test_the_unembedding_of_the_last_state_is_the_model(family: str) -> None:
    hf = tiny_hf(family).requires_grad_(False)
    output = hf(torch.tensor([[7, 30, 99, 200]]), use_cache=False, output_hidden_states=True)
    assert torch.allclose(layout_of(hf).unembed.normed_logits(output.hidden_states[-1]), output.logits, atol=1e-5)


def own_head(hf: PreTrainedModel, h: torch.Tensor) -> torch.Tensor:
    """[R, D] -> [R, V] by the model itself: a stock forward whose last hidden state is replaced by h."""
    handle = hf.model.norm.register_forward_pre_hook(lambda module, args: (h[None],))
    logits: torch.Tensor = hf(torch.ones(1, len(h), dtype=torch.long), use_cache=False).logits[0]
    handle.remove()
    return logits


@pytest.mark.parametrize("family", FAMILY_FIELDS)
def test_candidates_and_full_read_out_are_those_of_the_models_own_head(family: str) -> None:
    """Final soft-cap included, once; the scale of the embeddings not."""
    hf = tiny_hf(family).requires_grad_(False)
    layout, h = layout_of(hf), 3 * noise(7, 64)
    for lens in (LogitLens(2), tuned_lens(layout, 2)):
        own = own_head(hf, lens.translate(h))
        assert torch.allclose(full_readout(lens, layout.unembed, h), own, atol=1e-5)
        ids = own.topk(64).indices
        restricted = layout.unembed.candidate_logits(lens.translate(h), ids)
        assert torch.allclose(restricted, own.gather(-1, ids), atol=1e-5)


def test_the_final_soft_cap_is_seen() -> None:
    """Uncapped, or capped twice, Gemma-2's read-out would be another one."""
    hf = tiny_hf("gemma2").requires_grad_(False)
    unembed, cap, h = layout_of(hf).unembed, hf.config.final_logit_softcapping, 3 * noise(7, 64)
    capped, raw = unembed.logits(h), hf.lm_head(hf.model.norm(h))
    assert capped.abs().max() < cap < raw.abs().max()
    for wrong in (raw, cap * torch.tanh(capped / cap)):
        assert (wrong.log_softmax(-1) - capped.log_softmax(-1)).abs().max() > 0.1


def sides(R: int, C: int, spread: float = 1.0) -> torch.Tensor:
    return (spread * noise(2, R, C)).log_softmax(-1)


def test_drift_by_its_definition() -> None:
    logprobs = sides(6, 20, spread=3.0)
    for row, bits in enumerate(drift(logprobs).tolist()):
        p, q = (side[row].double().exp().tolist() for side in logprobs)
        mean = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        terms = [a * math.log2(a / m) + b * math.log2(b / m) for a, b, m in zip(p, q, mean, strict=True)]
        assert bits == pytest.approx(sum(terms) / 2, abs=1e-6)


def test_drift_is_symmetric_and_between_0_and_1_bit() -> None:
    logprobs = sides(50, 8, spread=5.0)
    assert torch.allclose(drift(logprobs), drift(logprobs.flip(0)), atol=1e-6)
    assert ((drift(logprobs) >= 0) & (drift(logprobs) <= 1)).all()
    assert drift(torch.stack((logprobs[0], logprobs[0]))).max() < 1e-6
    apart = torch.tensor([[0.0, -400.0]])
    assert drift(torch.stack((apart, apart.flip(-1)))).tolist() == [1.0]


def test_drift_of_a_row_is_its_own() -> None:
    logprobs = sides(9, 16)
    assert torch.equal(drift(logprobs), torch.cat([drift(logprobs[:, i : i + 1]) for i in range(9)]))
