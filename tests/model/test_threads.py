"""Threads: the number is measured, and left as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from steering.model import threads
from steering.model.threads import quickest_num_threads


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "quickest"),
    [
        ({4: 1.0, 2: 2.0, 1: 3.0}, 4),
        ({4: 0.96, 2: 0.97, 1: 1.0}, 1),
        ({4: 0.8, 2: 0.8, 1: 1.0}, 2),
        ({4: 0.6, 2: 0.95, 1: 1.0}, 4),
        ({4: 1.0, 2: 0.8, 1: 0.5}, 1),
    ],
)
def test_more_where_they_are_clearly_quicker(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], quickest: int
) -> None:
    monkeypatch.setattr(threads, "_seconds", lambda _, count: seconds[count])
    assert quickest_num_threads(nn.Linear(4, 4)) == quickest


def test_linears_are_timed_with_so_many_threads() -> None:
    net = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 64, bias=False))
    assert quickest_num_threads(net) in (1, 2, 4)
    assert quickest_num_threads(nn.SiLU()) == 4
