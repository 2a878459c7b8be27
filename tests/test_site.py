"""Site: one spelling, both ways."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steering.errors import LayerOutOfRange
from steering.model.layout import layout_of
from steering.site import Component, Site
from tests.models import tiny_hf

SITES = st.builds(Site, st.sampled_from(get_args(Component)), st.integers(0, 99_999))


@given(SITES)
def test_parse_is_the_inverse_of_str(site: Site) -> None:
    assert Site.parse(str(site)) == site


@given(st.text(max_size=20) | st.from_regex(r"(resid_post|attn_z|mlp_act)[.]-?[0-9]{1,7}", fullmatch=True))
def test_what_parses_is_spelt_that_way(text: str) -> None:
    try:
        site = Site.parse(text)
    except ValueError:
        return
    assert str(site) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "attn_z",
        "attn_z.",
        ".3",
        "attn_z.03",
        "attn_z.+3",
        "attn_z.-1",
        "attn_z.3.0",
        "attn_z.1e1",
        "attn_z.100000",
        "attn_z.٣",
        "attn_z.3\n",
        " attn_z.3",
        "ATTN_Z.3",
        "logits",
        "logits.0",
        "resid_pre.3",
        "attn_z,3",
        "attn_zx3",
    ],
)
def test_every_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a site reads like"):
        Site.parse(text)


def test_impossible_sites_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="component"):
        Site("resid_pre", 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer"):
        Site("attn_z", -1)


def test_a_layout_knows_its_sites() -> None:
    layout = layout_of(tiny_hf(num_hidden_layers=3, head_dim=16))
    assert [layout.width(component) for component in ("resid_post", "attn_z", "mlp_act")] == [64, 128, 128]
    layout.check_site(Site("attn_z", 2))
    with pytest.raises(LayerOutOfRange, match=r"layer 3 is out of range 0\.\.2"):
        layout.check_site(Site("attn_z", 3))


def test_group_features_are_those_of_the_heads_that_share_a_key() -> None:
    layout = layout_of(tiny_hf())  # 8 heads of 8 features in 2 groups
    assert layout.group_features([0]) == list(range(32))
    assert layout.group_features([1]) == list(range(32, 64))
    assert sorted(layout.group_features([1, 0])) == list(range(64))
    assert layout.group_features([]) == []
    for group in (-1, 2):
        with pytest.raises(LayerOutOfRange, match=r"0\.\.1"):
            layout.group_features([group])


def test_features_of_a_site_are_told_as_units() -> None:
    layout = layout_of(tiny_hf())
    for groups in ([], [0], [1], [0, 1]):
        features = torch.zeros(layout.width("attn_z"), dtype=torch.bool)
        features[layout.group_features(groups)[::5]] = True  # a part of a group is that group
        assert [str(unit) for unit in layout.units_at(Site("attn_z", 2), features)] == [f"group.2.{g}" for g in groups]
    features = torch.arange(layout.d_mlp) % 50 == 7
    assert [str(unit) for unit in layout.units_at(Site("mlp_act", 1), features)] == [
        f"neuron.1.{i}" for i in range(7, layout.d_mlp, 50)
    ]
    assert layout.units_at(Site("resid_post", 1), torch.ones(layout.d_model, dtype=torch.bool)) == []
