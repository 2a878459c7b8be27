"""CAA's and ITI's vectors: those that plain hooks on a stock model give."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steering.calibration.baselines import iti as script
from steering.calibration.baselines.caa import caving_to_neutral
from steering.calibration.baselines.iti import ProbedHead, answers_by_truth, mass_mean_steps, probe_heads
from steering.calibration.baselines.probe import fit_logistic, held_out_accuracy
from steering.calibration.localisation import Unit
from steering.errors import NothingToLocalise
from tests.calibration.pairs import SHAPES, random_pairs
from tests.models import tiny_model

MODEL = tiny_model()
PAIRS = [replace(pair, cluster=str(i)) for i, pair in enumerate(random_pairs(MODEL, SHAPES * 30))]
HELD = [replace(pair, claim=pair.truth, truth=pair.claim) for pair in PAIRS[:40]]


@torch.no_grad()
def hooked(ids: tuple[int, ...], block: int, module: str) -> Tensor:
    """At the last position: what a block puts out ("") or what goes into one of its linears."""
    seen: list[Tensor] = []
    layer = MODEL.hf.model.layers[block]
    if module:
        handle = layer.get_submodule(module).register_forward_pre_hook(lambda m, args: seen.append(args[0][0, -1]))
    else:
        handle = layer.register_forward_hook(lambda m, args, output: seen.append(output[0, -1]))
    MODEL.hf(torch.tensor([ids]), use_cache=False)
    handle.remove()
    return seen[0].double()


def test_caa_is_the_mean_difference_as_long_as_the_mean_state() -> None:
    pairs = PAIRS[:70]
    got = caving_to_neutral(MODEL, pairs, [0, 2])
    for block in (0, 2):
        caving = torch.stack([hooked(pair.pressured, block, "") for pair in pairs])
        away = (torch.stack([hooked(pair.neutral, block, "") for pair in pairs]) - caving).mean(0)
        expected = away / away.norm() * caving.norm(dim=-1).mean()
        torch.testing.assert_close(got[block].double(), expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(got[0], got[2])


def test_iti_tells_those_who_hold_from_those_who_cave() -> None:
    neither = [replace(pair, claim=1, truth=2) for pair in PAIRS[40:50]]
    got = answers_by_truth(MODEL, [*HELD, *neither, *PAIRS[50:]])
    assert got.prompts == (*(p.pressured for p in HELD), *(p.pressured for p in PAIRS[50:]))
    assert got.truthful.tolist() == [True] * 40 + [False] * 40 and got.under_pressure
    assert got.clusters == (*(p.cluster for p in HELD), *(p.cluster for p in PAIRS[50:]))


def test_neutral_twins_stand_for_the_truth_where_few_hold() -> None:
    got = answers_by_truth(MODEL, [*HELD[: script.FEW - 1], *PAIRS[50:60]])
    assert got.prompts == (*(p.neutral for p in PAIRS[50:60]), *(p.pressured for p in PAIRS[50:60]))
    assert not got.under_pressure and got.truthful.tolist() == [True] * 10 + [False] * 10
    with pytest.raises(NothingToLocalise, match="none of 40 pairs"):
        answers_by_truth(MODEL, HELD)


def test_iti_steps_are_sigma_times_the_mass_mean_direction() -> None:
    answers = answers_by_truth(MODEL, [*HELD, *PAIRS[50:]])
    probed = {one.head: one for one in probe_heads(MODEL, answers)}
    assert sorted(probed) == [Unit(block, head) for block in range(4) for head in range(8)]
    for block in (0, 3):
        z = torch.stack([hooked(ids, block, "self_attn.o_proj") for ids in answers.prompts]).view(-1, 8, 8)
        for head in range(8):
            own = z[:, head]
            away = own[answers.truthful].mean(0) - own[~answers.truthful].mean(0)
            unit = away / away.norm()
            along = torch.stack([row @ unit for row in own])
            sigma = ((along - along.mean()) ** 2).mean().sqrt()
            torch.testing.assert_close(probed[Unit(block, head)].step.double(), sigma * unit, rtol=1e-3, atol=1e-4)


def test_heads_are_ranked_by_their_probes() -> None:
    accuracies = [one.accuracy for one in probe_heads(MODEL, answers_by_truth(MODEL, [*HELD, *PAIRS[50:]]))]
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[0] > accuracies[-1]


def test_an_iti_plan_moves_its_heads_and_no_others() -> None:
    heads = [ProbedHead(Unit(1, 3), 0.9, torch.arange(8.0)), ProbedHead(Unit(1, 0), 0.8, -torch.ones(8))]
    plan = script._plan(MODEL.layout, [*heads, ProbedHead(Unit(3, 7), 0.7, torch.ones(8))], -15.0)
    first, second = plan.corrections
    assert [str(c.site) for c in plan.corrections] == ["attn_z.1", "attn_z.3"]
    h = torch.randn(2, 64)
    moved = (first.strength * first.edit.delta(h)).view(2, 8, 8)
    assert torch.equal(moved[:, 3], -15 * torch.arange(8.0).expand(2, -1)) and (moved[:, 0] == 15).all()
    assert not moved[:, [1, 2, 4, 5, 6, 7]].any()
    assert not second.edit.delta(h)[:, :56].any() and second.edit.delta(h)[:, 56:].all()


def minimum(x: Tensor, positive: Tensor) -> Tensor:
    """Weights at which the loss, written out, is smallest: x [n, K]."""
    w = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    share = positive.double().mean()
    optimizer = torch.optim.LBFGS([w], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        each = torch.nn.functional.softplus(torch.where(positive, -x @ w, x @ w))
        loss: Tensor = (each * torch.where(positive, 0.5 / share, 0.5 / (1 - share))).sum() + (w**2).sum() / 2
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)
    return w.detach()


def test_logistic_regression_is_where_plain_gradient_descent_arrives() -> None:
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(3, 60, 5, generator=noise, dtype=torch.float64)
    positive = x[1, :, 0] + torch.randn(60, generator=noise) > 0.7
    for one, weights in zip(x, fit_logistic(x, positive), strict=True):
        torch.testing.assert_close(weights, minimum(one, positive), rtol=1e-4, atol=1e-5)


def test_a_probe_is_scored_on_questions_it_has_not_seen() -> None:
    """The first features give the class away, the second the question, whose class is a coin toss; both leave none of
    the fitted rows wrong, and only the first helps on the others."""
    rng, noise = random.Random(0), torch.Generator().manual_seed(0)
    names = [str(i // 4) for i in range(160)]
    classes = {name: rng.random() < 0.5 for name in names}
    truthful = torch.tensor([classes[name] for name in names])
    telling = torch.randn(160, 40, generator=noise) + 3 * truthful[:, None]
    asked = torch.randn(40, 40, generator=noise)[torch.tensor([int(name) for name in names])] * 3
    accuracy = held_out_accuracy(torch.stack((telling, asked)).double(), truthful, names)
    assert accuracy[0] > 0.95 and accuracy[1] < 0.7


def test_both_classes_weigh_the_same() -> None:
    x = torch.randn(1, 200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truthful = torch.arange(200) % 10 == 0
    accuracy = held_out_accuracy(x, truthful, [str(i) for i in range(200)])
    assert 0.3 < accuracy < 0.7, "always saying the larger class would be right in 9 of 10"


def test_mass_means_point_from_caving_to_truth() -> None:
    z = torch.zeros(1, 4, 2)
    z[0, :2, 1] = 2.0
    assert torch.allclose(mass_mean_steps(z, torch.tensor([True, True, False, False])), torch.tensor([[0.0, 1.0]]))
