"""Lens fit: it finds a planted translator, lowers its own objective, and sees nothing but what it is given."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from steering.calibration import fit_lens as module
from steering.calibration.fit_lens import LensFit, States, divergence, fit_lenses, record_states
from steering.errors import CalibrationError
from steering.lens import Unembed, full_readout
from steering.model.layout import LinearUnembed
from tests.models import VOCAB_SIZE, tiny_model

QUICK = LensFit(updates=150, batch_tokens=256, learning_rate=1.0)


def texts(count: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, VOCAB_SIZE) for _ in range(rng.randint(5, 40))] for _ in range(count)]


def planted(scale: float) -> tuple[States, LinearUnembed, Tensor, Tensor]:
    """States whose one early layer is the final one seen through the inverse of a known translator."""
    torch.manual_seed(0)
    D, V = 16, 60
    head = nn.Linear(D, V, bias=False)
    nn.init.normal_(head.weight)
    A, b = torch.randn(D, D) * scale / D**0.5, torch.randn(D) * scale
    early = torch.randn(3000, D)
    return States(early[None], early + early @ A.T + b), LinearUnembed(nn.Identity(), head.requires_grad_(False)), A, b


def test_recovers_a_planted_translator() -> None:
    states, unembed, A, b = planted(0.5)
    lens = fit_lenses(states, unembed, LensFit(updates=600, batch_tokens=256, learning_rate=0.5, weight_decay=0.0))[1]
    before = divergence(states.early, states.final, unembed).item()
    after = divergence(lens.translate(states.early), states.final, unembed).item()
    assert after < 0.02 * before
    assert (lens.weight - A).norm() < 0.2 * A.norm()
    # Logits are blind to a direction in which all rows of the unembedding agree; 60 rows in 16 dimensions have none.
    assert (lens.bias - b).norm() < 0.2 * b.norm()


def test_beats_the_logit_lens_on_text_it_has_not_seen() -> None:
    model = tiny_model()
    fitted = fit_lenses(record_states(model, texts(200, 0)), model.layout.unembed, QUICK)
    assert sorted(fitted) == [1, 2, 3]
    held = record_states(model, texts(50, 1))
    unread = divergence(held.early, held.final, model.layout.unembed)
    for layer, lens in fitted.items():
        read = divergence(lens.translate(held.early[layer - 1])[None], held.final, model.layout.unembed)
        assert read.item() < 0.9 * unread[layer - 1].item()


def test_divergence_is_the_kl_of_the_read_outs() -> None:
    model = tiny_model()
    states = record_states(model, texts(4, 2))
    lens = fit_lenses(states, model.layout.unembed, LensFit(updates=3))[2]
    read = full_readout(lens, model.layout.unembed, states.early[1]).log_softmax(-1)
    final = model.hf.lm_head(model.hf.model.norm(states.final)).log_softmax(-1)
    expected = nn.functional.kl_div(read, final, log_target=True, reduction="batchmean")
    got = divergence(lens.translate(states.early[1])[None], states.final, model.layout.unembed)
    torch.testing.assert_close(got[0], expected)


def test_a_layers_fit_does_not_depend_on_the_others() -> None:
    model = tiny_model()
    states = record_states(model, texts(40, 3))
    alone = fit_lenses(States(states.early[1:2], states.final), model.layout.unembed, QUICK)[1]
    together = fit_lenses(states, model.layout.unembed, QUICK)[2]
    torch.testing.assert_close(alone.weight, together.weight, rtol=1e-3, atol=1e-4)
    assert together.weight.norm() > 0.1


def test_is_reproducible_and_leaves_the_model_alone() -> None:
    model = tiny_model()
    before = {name: p.clone() for name, p in model.hf.named_parameters()}
    states = record_states(model, texts(20, 4))
    one, two = (fit_lenses(states, model.layout.unembed, LensFit(updates=5)) for _ in range(2))
    assert all(torch.equal(one[layer].weight, two[layer].weight) for layer in one)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.hf.named_parameters())


def test_zero_updates_are_the_logit_lens() -> None:
    model = tiny_model()
    states = record_states(model, texts(3, 5))
    lens = fit_lenses(states, model.layout.unembed, LensFit(updates=0))[1]
    assert torch.equal(lens.translate(states.early[0]), states.early[0])


def test_an_interrupted_fit_comes_to_the_same_lenses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    states, unembed, _, _ = planted(1.0)
    fit = LensFit(updates=50, batch_tokens=16, checkpoint_every=20)
    whole = fit_lenses(states, unembed, fit)
    updates = 0

    def stopping(translated: Tensor, final: Tensor, unembed: Unembed) -> Tensor:
        nonlocal updates
        updates += 1
        if updates == 35:
            raise KeyboardInterrupt
        return divergence(translated, final, unembed)

    monkeypatch.setattr(module, "divergence", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit_lenses(states, unembed, fit, checkpoint=tmp_path / "lens.fit")
    resumed = fit_lenses(states, unembed, fit, checkpoint=tmp_path / "lens.fit")
    assert updates == 35 + 30, "it went on after update 20"
    for layer, lens in whole.items():
        assert torch.equal(lens.weight, resumed[layer].weight) and torch.equal(lens.bias, resumed[layer].bias)


def test_a_checkpoint_of_another_fit_is_not_gone_on_with(tmp_path: Path) -> None:
    states, unembed, _, _ = planted(1.0)
    path, fit = tmp_path / "lens.fit", LensFit(updates=20, batch_tokens=16, checkpoint_every=20)
    fit_lenses(states, unembed, fit, checkpoint=path)
    other = replace(fit, seed=1)
    for layer, lens in fit_lenses(states, unembed, other).items():
        assert torch.equal(lens.weight, fit_lenses(states, unembed, other, checkpoint=path)[layer].weight)
    path.write_bytes(b"nonsense")
    with pytest.raises(CalibrationError, match="delete it"):
        fit_lenses(states, unembed, fit, checkpoint=path)
