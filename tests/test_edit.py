"""Edits: deltas by their laws, and the lens contrast by its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from steering.edit import Edit, LayerContrast, LensContrast, Project, Scale, Set, Shift
from steering.model.hooks import Dose, Taps
from steering.model.layout import layout_of
from steering.site import Site
from tests.models import tiny_hf
from tests.plans import KINDS, random_edit

LAYOUT = layout_of(tiny_hf())
SITE = Site("mlp_act", 2)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(kind: type[Edit]) -> Edit:
    """An edit of the tiny model's neurons in float64."""
    edit = random_edit(kind, LAYOUT, "mlp_act")
    return type(edit)(**{k: v if v.dtype == torch.bool else v.double() for k, v in vars(edit).items()})


def apply(h: Tensor, *doses: tuple[Tensor, Edit]) -> Tensor:
    """[N, W] through the one place that adds."""
    made = [Dose(edit, c[rows], None if len(rows) == len(h) else rows) for c, edit in doses if len(rows := _acting(c))]
    return Taps({SITE: made}).apply("mlp_act", 2, h[None])[0]


def _acting(c: Tensor) -> Tensor:
    return c[:, 0].nonzero()[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_delta_depends_on_its_own_row_and_changes_nothing(kind: type[Edit]) -> None:
    edit, h = exact(kind), noise(5, 128)
    kept, delta = h.clone(), edit.delta(h)
    assert torch.equal(h, kept)
    assert delta.shape == h.shape
    assert torch.allclose(delta[3], edit.delta(h[3:4])[0])
    assert delta.abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_knows_the_features_it_can_change(kind: type[Edit]) -> None:
    h, some = noise(5, 128), torch.arange(128) % 3 == 0
    part = {Set: Set(noise(128), some), Scale: Scale(torch.where(some, 2.0, 1.0)), Shift: Shift(noise(128) * some)}
    basis = torch.zeros(1, 128, dtype=torch.float64).masked_fill(some, 1.0)
    edit = part.get(kind) or Project(basis / basis.norm())
    assert torch.equal(edit.features, (edit.delta(h) != 0).any(0)) and torch.equal(edit.features, some)


def test_set_reaches_its_target_where_it_acts() -> None:
    edit, h = exact(Set), noise(3, 128)
    assert isinstance(edit, Set)
    after = h + edit.delta(h)
    assert torch.allclose(after[:, edit.mask], edit.target[edit.mask].expand(3, -1))
    assert torch.equal(after[:, ~edit.mask], h[:, ~edit.mask])


def test_set_ignores_its_target_elsewhere() -> None:
    target = torch.tensor([1.0, math.nan, math.inf])
    delta = Set(target, torch.tensor([True, False, False])).delta(torch.zeros(2, 3))
    assert delta.tolist() == [[1, 0, 0]] * 2


def test_scale_multiplies() -> None:
    edit, h = exact(Scale), noise(3, 128)
    assert isinstance(edit, Scale)
    assert torch.allclose(h + edit.delta(h), h * edit.factor)


def test_shift_does_not_look() -> None:
    edit = exact(Shift)
    assert torch.equal(edit.delta(noise(3, 128)), edit.delta(noise(3, 128, seed=1)))


def test_project_removes_its_subspace_and_nothing_else() -> None:
    edit, h = Project(torch.linalg.qr(noise(128, 3)).Q.T), noise(4, 128, seed=2)
    after = h + edit.delta(h)
    assert (after @ edit.basis.T).abs().max() < 1e-12
    inside = h @ edit.basis.T @ edit.basis
    assert torch.allclose(after, h - inside)
    assert torch.allclose(after + edit.delta(after), after), "twice is once"


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_dose_0_keep_their_bits(kind: type[Edit]) -> None:
    h = noise(4, 128)
    h[1, 0], h[2, 1], h[3, 2] = -0.0, math.nan, math.inf
    c = torch.tensor([[0.7], [0.0], [0.0], [0.0]], dtype=torch.float64)
    after = apply(h, (c, exact(kind)))
    assert torch.equal(after[1:].view(torch.int64), h[1:].view(torch.int64))
    assert not torch.equal(after[0], h[0])


@pytest.mark.parametrize("c", [0.5, 1.0, -0.5])
def test_edits_of_one_site_take_their_deltas_from_the_same_state(c: float) -> None:
    edits, h = [exact(kind) for kind in KINDS], noise(2, 128)
    doses = [(torch.full((2, 1), c * (i + 1), dtype=torch.float64), edit) for i, edit in enumerate(edits)]
    expected = h + sum(c * (i + 1) * edit.delta(h) for i, edit in enumerate(edits))
    assert torch.allclose(apply(h, *doses), expected)
    assert torch.allclose(apply(h, *doses[::-1]), expected)


def test_other_sites_are_left_alone() -> None:
    taps, h = Taps({SITE: [Dose(exact(Shift), torch.ones(2, 1))]}), noise(1, 2, 128)
    assert taps.apply("mlp_act", 1, h) is h
    assert taps.apply("resid_post", 2, h) is h


# The lens contrast, on 3 rows of 6 candidates.
EARLY, LATE = noise(3, 6), 2 * noise(3, 6, seed=1)


def contrasted(a: float, plausibility: float = 0.0) -> Tensor:
    """[3, 6] log-probabilities on the candidates, after."""
    delta = LensContrast(plausibility).delta(EARLY, LATE, torch.full((3, 1), a, dtype=torch.float64))
    return LATE.log_softmax(-1) + delta


def test_contrast_0_and_below_are_the_identity() -> None:
    for a in (0.0, -0.5):
        delta = LensContrast().delta(EARLY, LATE, torch.full((3, 1), a, dtype=torch.float64))
        assert (delta == 0).all()


def test_contrast_1_is_the_early_answer() -> None:
    assert torch.allclose(contrasted(1.0), EARLY.log_softmax(-1))
    assert torch.allclose(contrasted(7.0), EARLY.log_softmax(-1)), "a is clamped"


@pytest.mark.parametrize("a", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("plausibility", [0.0, 0.01, 0.3])
def test_contrast_keeps_the_mass_of_the_candidates(a: float, plausibility: float) -> None:
    assert torch.allclose(contrasted(a, plausibility).exp().sum(-1), torch.ones(3, dtype=torch.float64))


def test_contrast_is_a_geometric_mean() -> None:
    mean = 0.7 * LATE.log_softmax(-1) + 0.3 * EARLY.log_softmax(-1)
    assert torch.allclose(contrasted(0.3), mean.log_softmax(-1))


def test_contrast_leaves_implausible_candidates_as_they_were() -> None:
    late = LATE.log_softmax(-1)
    implausible = late.exp() < 0.3 * late.exp().amax(-1, keepdim=True)
    after = contrasted(0.8, 0.3)
    assert implausible.any()
    assert (~implausible).sum() > 3
    assert torch.equal(after[implausible], late[implausible])
    assert not torch.allclose(after[~implausible], late[~implausible])


def test_contrast_of_one_row_does_not_touch_another() -> None:
    c = torch.tensor([[0.0], [0.6], [0.0]], dtype=torch.float64)
    delta = LensContrast(0.01).delta(EARLY, LATE, c)
    assert (delta[[0, 2]] == 0).all()
    assert torch.allclose(LATE.log_softmax(-1)[1] + delta[1], contrasted(0.6, 0.01)[1])


@pytest.mark.parametrize("bad", [-0.1, 1.0, math.nan])
def test_impossible_plausibility_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="plausibility"):
        LensContrast(bad)
    with pytest.raises(ValueError, match="plausibility"):
        LayerContrast((0,), bad)


@pytest.mark.parametrize("bad", [(), (1, 0), (1, 1), (-1, 2)])
def test_impossible_buckets_are_refused(bad: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="bucket"):
        LayerContrast(bad)


# The layer contrast, on 3 rows of 6 tokens and 2 layers.
LAYERS = (EARLY, noise(3, 6, seed=2))


def layered(a: float, plausibility: float = 0.1) -> Tensor:
    """[3, 6]"""
    return LayerContrast((0, 1), plausibility).delta(iter(LAYERS), LATE, torch.full((3, 1), a, dtype=torch.float64))


def test_layer_contrast_takes_the_farthest_layer_row_by_row() -> None:
    """Jensen-Shannon is the entropy of the mean minus the mean of the entropies."""

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.log()).sum(-1)

    late, (one, other) = LATE.softmax(-1), (layer.softmax(-1) for layer in LAYERS)
    js = [entropy((late + q) / 2) - (entropy(late) + entropy(q)) / 2 for q in (one, other)]
    expected = torch.where((js[0] > js[1])[:, None], one, other)
    assert 0 < (js[0] > js[1]).sum() < 3, "both layers are taken somewhere"
    assert torch.allclose(layered(1.0, 0.0), -expected.log())
    assert torch.allclose(layered(0.4, 0.0), -0.4 * expected.log())
    assert torch.equal(layered(7.0), layered(1.0)), "a is clamped"


def test_layer_contrast_rules_out_exactly_the_implausible() -> None:
    late = LATE.softmax(-1)
    implausible = late < 0.3 * late.amax(-1, keepdim=True)
    assert torch.equal(layered(0.5, 0.3) == -math.inf, implausible)
    assert 0 < implausible.sum() < 15


@pytest.mark.parametrize("a", [0.0, -1.0])
def test_layer_contrast_0_and_below_are_the_identity(a: float) -> None:
    assert (layered(a) == 0).all(), "the cut acts no more than the rest"
