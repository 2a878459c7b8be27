"""Head groups: the means are means, and a correction sets its groups' features and no others."""

from __future__ import annotations

import torch

from steering.calibration.data import answer_position
from steering.calibration.head_groups import ITEMS_AT_ONCE, groups_from, neutral_means, set_to_means
from steering.calibration.localisation import Unit
from steering.contrast.item import Item
from steering.gate import Gate
from steering.model.record import record
from tests.models import tiny_model


def items(count: int) -> list[Item]:
    asked = (({"role": "user", "content": f"What is {i} plus {i * i}?"},) for i in range(count))
    return [Item(str(i), "neutral", messages, "x", None, "neutral") for i, messages in enumerate(asked)]


def test_means_are_over_the_deciding_positions_of_all_items() -> None:
    model, some = tiny_model(), items(ITEMS_AT_ONCE + 3)
    means = neutral_means(model, some)
    last = [record(model, [ids]).attn_z[2][-1] for ids in answer_position(model, some)]
    torch.testing.assert_close(means[2], torch.stack(last).mean(0), rtol=1e-4, atol=1e-5)
    assert sorted(means) == [0, 1, 2, 3]


def test_groups_of_the_upper_blocks() -> None:
    assert groups_from(tiny_model().layout, 2) == [Unit(2, 0), Unit(2, 1), Unit(3, 0), Unit(3, 1)]


def test_sets_exactly_the_chosen_groups() -> None:
    layout = tiny_model().layout  # 8 heads of 8 features in 2 groups
    means = {layer: torch.arange(64.0) + layer for layer in range(4)}
    gate = Gate("drift")
    first, second = set_to_means(layout, means, [Unit(3, 0), Unit(1, 1), Unit(3, 1)], gate)
    assert [str(c.site) for c in (first, second)] == ["attn_z.1", "attn_z.3"]
    assert first.gate == gate
    z = torch.randn(5, 64)
    corrected = z + first.edit.delta(z)
    assert torch.equal(corrected[:, :32], z[:, :32])
    torch.testing.assert_close(corrected[:, 32:], means[1][32:].expand(5, -1))
    torch.testing.assert_close(z + second.edit.delta(z), means[3].expand(5, -1))
