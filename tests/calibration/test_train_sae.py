"""Train an SAE: it finds the dictionary that data was made from, keeps its laws, and goes on where it was cut off."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from steering.calibration.sae import SparseAutoencoder, keep_largest
from steering.calibration.train_sae import SaeConfig, SaeFit, _Run, _split, measure_sae, train_sae
from steering.errors import AnotherRun, CalibrationError

CPU = torch.device("cpu")
F, WORDS, ACTIVE, N = 32, 48, 3, 4000
OFFSET, SIZE = 5.0, 7.0
CONFIG = SaeConfig(expansion=2.0, k=ACTIVE, updates=600, batch=256, learning_rate=3e-3, dead_after=2000)
SHORT = replace(CONFIG, updates=12, batch=32, dead_after=64, checkpoint_every=5)


@cache
def made_of_words() -> tuple[Tensor, Tensor]:
    """([N, F] sums of ACTIVE words each, [WORDS, F] the words), far from 0 and from size 1."""
    noise = torch.Generator().manual_seed(1)
    words = torch.randn(WORDS, F, generator=noise)
    words = words / words.norm(dim=1, keepdim=True)
    which = torch.rand(N, WORDS, generator=noise).topk(ACTIVE).indices
    amounts = torch.zeros(N, WORDS).scatter(1, which, 0.5 + torch.rand(N, ACTIVE, generator=noise))
    return SIZE * (amounts @ words) + OFFSET, words


@cache
def trained() -> tuple[SparseAutoencoder, SaeFit]:
    return train_sae(made_of_words()[0], CONFIG, device=CPU)


def matched(words: Tensor, decoder: Tensor) -> float:
    """Mean, over the words, of the cosine with the feature that is nearest."""
    return (words @ (decoder / decoder.norm(dim=1, keepdim=True)).T).amax(1).mean().item()


def test_it_finds_the_dictionary() -> None:
    _, words = made_of_words()
    sae, fit = trained()
    by_chance = torch.randn(sae.num_features, F, generator=torch.Generator().manual_seed(2))
    assert matched(words, by_chance) < 0.55
    assert matched(words, sae.decoder) > 0.93
    assert fit.unexplained < 0.1 and fit.rows == N - N // 10


def test_laws_of_a_trained_one() -> None:
    x, _ = made_of_words()
    sae, fit = trained()
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(sae.num_features))
    active = (sae.encode(x) > 0).sum(1)
    assert int(active.max()) == ACTIVE and (active == ACTIVE).float().mean() > 0.99
    assert fit.active == pytest.approx(ACTIVE, abs=0.02)


def test_exactly_k_are_kept_and_they_are_the_largest() -> None:
    x = torch.rand(100, 20, generator=torch.Generator().manual_seed(0)) + 0.1
    kept = keep_largest(x, 4)
    assert ((kept > 0).sum(1) == 4).all()
    assert torch.equal(kept[kept > 0].view(100, 4).sort().values, x.sort().values[:, -4:])


def test_error_and_dead_share_are_what_they_say() -> None:
    x, _ = made_of_words()
    sae, _ = trained()
    with_dead = SparseAutoencoder(
        sae.encoder,
        sae.encoder_bias.index_fill(0, torch.arange(16), -1e6),
        sae.decoder,
        sae.decoder_bias,
        sae.threshold,
        sae.k,
    )
    rows = torch.arange(0, N, 7)
    fit = measure_sae(with_dead, x, rows)
    restored = with_dead.decode(with_dead.encode(x[rows]))
    expected = (restored - x[rows]).square().sum() / (x[rows] - x.mean(0)).square().sum()
    assert fit.unexplained == pytest.approx(expected.item(), rel=1e-4)
    assert (
        fit.dead == pytest.approx(1 - ((with_dead.encode(x) > 0).any(0)).float().mean().item()) and fit.dead >= 16 / 64
    )


def test_dead_features_come_back() -> None:
    """Most features start too weak to be among the k largest; only the auxiliary loss reaches them."""
    x, _ = made_of_words()

    def after(dead_after: int) -> float:
        config = replace(CONFIG, updates=150, dead_after=dead_after)
        run = _Run(x, _split(N, 0)[1], config, CPU)
        with torch.no_grad():
            run.encoder[:, : 3 * len(run.encoder_bias) // 4] *= 1e-3
        for update in range(config.updates):
            run.update(update)
        return measure_sae(run.result(), x).dead

    without, with_it = after(10**9), after(512)
    assert without > 0.5 and with_it < without / 2


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    x, _ = made_of_words()
    one, again, other = (train_sae(x[:500], replace(SHORT, seed=seed), device=CPU)[0] for seed in (3, 3, 4))
    assert torch.equal(one.decoder, again.decoder) and not torch.equal(one.decoder, other.decoder)


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    x, path = made_of_words()[0][:500], tmp_path / "folder" / "sae.pt"
    whole, fit = train_sae(x, SHORT, device=CPU)

    class Cut(Exception):
        pass

    def cut(line: str) -> None:
        if line.startswith("10/"):
            raise Cut

    with pytest.raises(Cut):
        train_sae(x, SHORT, device=CPU, checkpoint=path, log=cut)
    assert torch.load(path, weights_only=True)["done"] == 5
    lines: list[str] = []
    resumed = train_sae(x, SHORT, device=CPU, checkpoint=path, log=lines.append)
    assert [line.split()[0] for line in lines] == ["10/12", "12/12"]
    for name in ("encoder", "encoder_bias", "decoder", "decoder_bias"):
        assert torch.equal(getattr(resumed[0], name), getattr(whole, name)), name
    assert resumed[1] == fit
    lines.clear()
    finished = train_sae(x, SHORT, device=CPU, checkpoint=path, log=lines.append)
    assert not lines and torch.equal(finished[0].decoder, whole.decoder)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    x, path = made_of_words()[0][:500], tmp_path / "sae.pt"
    train_sae(x, SHORT, device=CPU, checkpoint=path)
    for other, config in ((x + 1, SHORT), (x, replace(SHORT, k=4)), (x, replace(SHORT, seed=1))):
        with pytest.raises(AnotherRun, match="delete it"):
            train_sae(other, config, device=CPU, checkpoint=path)
    train_sae(x, replace(SHORT, checkpoint_every=3), device=CPU, checkpoint=path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CalibrationError, match="cannot be read"):
        train_sae(x, SHORT, device=CPU, checkpoint=path)


def test_it_does_not_depend_on_the_scale_of_the_activations() -> None:
    x = made_of_words()[0][:1000]
    config = replace(SHORT, updates=60)
    one, hundred = (train_sae(scale * x, config, device=CPU)[1] for scale in (1.0, 128.0))
    assert hundred.unexplained == pytest.approx(one.unexplained, rel=1e-3)


@pytest.mark.parametrize("x", [torch.zeros(40, 4), torch.full((40, 4), torch.nan), torch.ones(3, 4)])
def test_activations_that_cannot_be_learnt_from(x: Tensor) -> None:
    with pytest.raises(CalibrationError, match="activations"):
        train_sae(x, SHORT, device=CPU)


@pytest.mark.parametrize("field", ["k", "updates", "batch", "dead_after", "expansion", "learning_rate"])
def test_impossible_settings(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        SaeConfig(**{field: 0})  # type: ignore[arg-type]
