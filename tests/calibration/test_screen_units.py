"""Screen: its estimate is the slope of patching, for every family, and finds what was planted."""

from __future__ import annotations

import numpy as np
import pytest

from steering.calibration.localisation import Question, top_recall
from steering.calibration.patch_paths import Pair, patch_paths
from steering.calibration.screen_units import screen_units
from steering.errors import NothingToLocalise
from tests.calibration.pairs import random_pairs
from tests.calibration.planted import MOVER, MOVER_GROUP, planted_model, planted_pairs
from tests.models import tiny_model
from tests.oracles.path_patching import Naive

STEP = 1e-2


@pytest.mark.parametrize("question", [Question("head", "total", "all"), Question("group", "direct", "last")], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
def test_is_the_slope_of_patching(family: str, question: Question) -> None:
    model = tiny_model(family)
    pairs = random_pairs(model)
    found = screen_units(model, pairs, question)
    assert not found.exact and found.patched.shape == (4, 8 if question.kind == "head" else 2, 3)
    size, slopes, estimates = (1 if question.kind == "head" else 4), list[float](), list[float]()
    for i, pair in enumerate(pairs):
        naive = Naive(model.hf, pair.pressured, pair.neutral, (pair.claim, pair.truth))
        how = {"width": pair.width(question), "direct": question.effect == "direct"}
        for layer in range(4):
            heads = range(size) if i % 2 else range(8 - size, 8)
            up, down = (naive.patched(layer, heads, **how, share=share) for share in (STEP, -STEP))  # type: ignore[arg-type]
            slopes.append((up - down) / (2 * STEP))
            estimates.append(found.patched[layer, heads[0] // size, i] - found.pressured[i])
    np.testing.assert_allclose(estimates, slopes, rtol=2e-2, atol=5e-3)
    assert max(map(abs, slopes)) > 0.1


def test_finds_the_planted_head_first() -> None:
    model, pairs = planted_model(), planted_pairs()
    for kind, planted in (("head", MOVER), ("group", MOVER_GROUP)):
        question = Question(kind)  # type: ignore[arg-type]
        screened = screen_units(model, pairs, question)
        assert screened.units[0] == planted
        leaders = screened.units[:4]
        exact = patch_paths(model, pairs, question, units=leaders)
        assert exact.units[0] == planted and set(exact.units) == set(leaders)
        assert top_recall(screened, exact, 1) == 1.0


def test_what_goes_directly_goes_from_the_last_position() -> None:
    model = tiny_model("qwen3")
    pairs = random_pairs(model)
    last, everywhere = (screen_units(model, pairs, Question("head", "direct", p)).patched for p in ("last", "all"))
    np.testing.assert_allclose(last, everywhere, atol=1e-4)


def test_in_the_last_block_direct_is_total() -> None:
    model = tiny_model("phi3")
    pairs = random_pairs(model)
    direct, total = (screen_units(model, pairs, Question("head", effect)).patched for effect in ("direct", "total"))
    np.testing.assert_allclose(direct[-1], total[-1], atol=1e-4)
    assert np.abs(direct[:-1] - total[:-1]).max() > 0.01


def test_without_a_difference_nothing_moves() -> None:
    model = tiny_model("qwen3_moe")
    pairs = [Pair(p.pressured, p.pressured, p.claim, p.truth) for p in random_pairs(model)]
    found = screen_units(model, pairs, Question("group", "total", "all"))
    np.testing.assert_allclose(found.patched, np.broadcast_to(found.pressured, found.patched.shape), atol=1e-4)


def test_leaves_no_gradients_and_refuses_what_does_not_cave() -> None:
    model = tiny_model()
    pairs = random_pairs(model)
    screen_units(model, pairs, Question())
    assert all(p.grad is None and not p.requires_grad for p in model.hf.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.hf.modules())
    with pytest.raises(NothingToLocalise):
        screen_units(model, [Pair(p.pressured, p.neutral, p.truth, p.claim) for p in pairs], Question())
