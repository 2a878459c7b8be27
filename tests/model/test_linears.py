"""Packed linears: the same product, chosen by measurement, undone without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steering.model import linears
from steering.model.linears import PROBED_ROWS, PackedLinear, pack_linears

ALL = frozenset(PROBED_ROWS)


def model(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 80, bias=bias), nn.SiLU(), nn.Linear(80, 32, bias=bias)).to(dtype)


@pytest.fixture
def always_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is measured, packed products win."""
    monkeypatch.setattr(linears, "_times", lambda *_: (2.0, 1.0))


@pytest.mark.parametrize("num_rows", [1, 3, 8, 33, 64, 65, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.usefixtures("always_packed")
def test_packed_products_are_the_same_but_for_rounding(num_rows: int, dtype: torch.dtype, bias: bool) -> None:
    net, x = model(bias=bias, dtype=dtype), torch.randn(1, num_rows, 48, dtype=dtype)
    with torch.inference_mode():
        plain = net(x)
        packing = pack_linears(net)
        assert [linear.rows for linear in packing.linears] == [ALL, ALL]
        assert packing.nbytes == net[0].weight.nbytes + net[2].weight.nbytes
        torch.testing.assert_close(net(x), plain)


@pytest.mark.usefixtures("always_packed")
def test_the_packed_copy_is_what_multiplies_and_only_for_the_rows_it_is_for() -> None:
    net, x = model(), torch.randn(8, 48)
    first = pack_linears(net).linears[0]
    with torch.inference_mode():
        with_weight = net[0](x)
        first.weight.data.zero_()  # the copy still holds what it was made of
        assert torch.allclose(net[0](x), with_weight, atol=1e-5)
        first.rows = frozenset({1, 16})
        assert torch.equal(net[0](x), first.bias.expand(8, -1))


@pytest.mark.usefixtures("always_packed")
def test_gradients_flow_through_the_weight_itself() -> None:
    net, x = model(), torch.randn(4, 48)
    expected = net(x)
    pack_linears(net)
    assert torch.equal(net(x), expected)
    net(x).sum().backward()
    assert net[0].weight.grad is not None


@pytest.mark.usefixtures("always_packed")
def test_undone_nothing_is_left_and_hooks_stay() -> None:
    net, x = model(), torch.randn(2, 48)
    before, keys = net(x), set(net[0].__dict__)
    seen: list[int] = []
    net[0].register_forward_hook(lambda *_: seen.append(1))
    packing = pack_linears(net)
    assert isinstance(net[0], PackedLinear)
    with torch.inference_mode():
        net(x)
    packing.undo()
    assert type(net[0]) is nn.Linear
    assert set(net[0].__dict__) == keys
    assert torch.equal(net(x), before)
    assert len(seen) == 2


def test_where_plain_is_as_quick_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "_times", lambda *_: (1.0, 0.99))
    net = model()
    assert not pack_linears(net).linears
    assert type(net[0]) is nn.Linear


@pytest.mark.usefixtures("always_packed")
def test_copies_that_memory_does_not_hold_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model()
    monkeypatch.setattr(linears, "free_memory", lambda device: 2 * net[0].weight.nbytes)  # of which half may be taken
    packing = pack_linears(net)
    assert packing.linears == (net[0],)
    assert type(net[2]) is nn.Linear


def test_a_cpu_without_such_products_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise RuntimeError("no such product")

    monkeypatch.setattr(linears, "_packed", refuse)
    net = model()
    assert not pack_linears(net).linears
    assert net(torch.randn(1, 48)).shape == (1, 32)


def test_the_measurement_is_of_both_products() -> None:
    net = model()
    pairs = [(net[0].weight, linears._packed(net[0].weight, torch.float32), None)]
    with torch.inference_mode():
        plain, packed = linears._times(pairs, torch.ones(4, 48))
    assert plain > 0
    assert packed > 0


@pytest.mark.parametrize("bias", [True, False])
def test_copies_are_rounded_only_where_that_is_allowed_and_quicker(monkeypatch: pytest.MonkeyPatch, bias: bool) -> None:
    seconds: dict[torch.dtype, float] = {}

    def times(pairs: list[tuple[torch.Tensor, torch.Tensor, object]], _: object) -> tuple[float, float]:
        return 2.0, seconds[pairs[0][1].dtype]

    monkeypatch.setattr(linears, "_times", times)
    x = torch.randn(8, 48)
    for rounded, measured, expected in (
        (None, {torch.float32: 1.0}, torch.float32),
        (torch.bfloat16, {torch.float32: 1.0, torch.bfloat16: 0.5}, torch.bfloat16),
        (torch.bfloat16, {torch.float32: 1.0, torch.bfloat16: 1.5}, torch.float32),
    ):
        seconds.update(measured)
        net = model(bias=bias)
        with torch.inference_mode():
            plain = net(x)
            packing = pack_linears(net, rounded)
            assert {linear.packed.dtype for linear in packing.linears} == {expected}
            assert packing.nbytes == sum(linear.weight.numel() * expected.itemsize for linear in packing.linears)
            y = net(x)
        assert y.dtype == torch.float32
        torch.testing.assert_close(y, plain, **({} if expected == torch.float32 else {"rtol": 0.02, "atol": 0.02}))
