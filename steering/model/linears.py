"""Linears on the CPU: for each number of rows the quicker of PyTorch's own product and oneDNN's on packed weights.

Plain products read a weight at the speed of memory where one row asks, but from a few rows on they lose up to half of
it; a weight in oneDNN's blocked layout does not, and a copy in fewer bits, where rounding is allowed, is read sooner.
Which is quicker depends on the machine, the shape and the number of rows, so it is measured when an engine starts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steering.errors import first_line
from steering.model.free_memory import free_memory

log = logging.getLogger(__name__)

PROBED_ROWS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of rows that are measured; one between two of them is decided by the higher. Above the last, where prompts
are read and arithmetic is all that counts, plain products do as well."""
ROUNDS = 3
WORTH = 0.95
"""A packed product must take less than this share of the plain one's time."""
PROBED_BYTES = 2**26
"""Of the weights of one shape, as many are measured as no cache holds."""
MEMORY_SHARE = 0.5
"""Most of the memory at hand that packed copies may take; beyond it linears stay plain."""


class PackedLinear(nn.Linear):
    """A linear that holds its weight a second time, packed and maybe rounded, and uses that copy for the numbers of
    rows it is for."""

    packed: Tensor
    rows: frozenset[int]
    """For which of `PROBED_ROWS`."""
    handle: object = None
    """What a compiled model knows of it (`steering.model.compiled`)."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]. Outside inference mode, where weights may be trained, the plain product."""
        if torch.compiler.is_compiling():  # which product it will be is not to be decided while tracing
            return torch.ops.unsway.linear(x, self.handle, self.out_features)  # type: ignore[no-any-return]
        num_rows = x.numel() // self.in_features
        if torch.is_inference_mode_enabled() and _decider(num_rows) in self.rows:
            return _product(x, self.packed, self.bias)
        return super().forward(x)


@dataclass(frozen=True)
class Packing:
    """What was packed, and how to undo it."""

    linears: tuple[PackedLinear, ...] = ()
    nbytes: int = 0
    """Of the packed copies."""

    def undo(self) -> None:
        """The linears are as they were found."""
        for linear in self.linears:
            for name in ("packed", "rows", "handle"):
                linear.__dict__.pop(name, None)
            linear.__class__ = nn.Linear  # type: ignore[assignment]


def pack_linears(model: nn.Module, rounded: torch.dtype | None = None) -> Packing:
    """Packs the linears of a model on the CPU for which that measures faster; the others stay as they are.

    rounded: a type that copies may have too, where that is quicker still; None: they have that of the weights. A linear
    keeps its identity, its weight and its hooks. Products of the two kinds differ by rounding, so a row's bits come to
    depend on how many rows a step has: not for deterministic mode.
    """
    shapes: dict[object, list[nn.Linear]] = {}
    for linear in model.modules():
        if type(linear) is nn.Linear and linear.weight.device.type == "cpu":
            shapes.setdefault((linear.weight.shape, linear.weight.dtype, linear.bias is None), []).append(linear)
    budget, done = MEMORY_SHARE * (free_memory(torch.device("cpu")) or 0), []
    nbytes = 0
    for linears in shapes.values():
        dtypes = [linears[0].weight.dtype, *([rounded] if rounded else [])]
        wanted = sum(linear.weight.nbytes for linear in linears)
        if nbytes + wanted > budget:
            log.info("%d linears stay plain: packed copies of %d bytes do not fit.", len(linears), wanted)
            continue
        some = linears[: max(1, PROBED_BYTES // linears[0].weight.nbytes)]
        try:
            copies, rows = min((_measured(some, dtype) for dtype in dtypes), key=lambda one: one.share)[:2]
        except RuntimeError as error:  # a CPU or a type that oneDNN has no product for
            log.info("linears stay plain: %s", first_line(error))
            continue
        if rows:
            copies += [_packed(linear.weight, copies[0].dtype) for linear in linears[len(some) :]]
            done += [_pack(linear, copy, rows) for linear, copy in zip(linears, copies, strict=True)]
            nbytes += sum(copy.numel() * copy.dtype.itemsize for copy in copies)
    return Packing(tuple(done), nbytes)


def _pack(linear: nn.Linear, packed: Tensor, rows: frozenset[int]) -> PackedLinear:
    linear.__class__ = PackedLinear  # modules of others, and hooks, hold on to this object
    assert isinstance(linear, PackedLinear)  # noqa: S101
    linear.packed, linear.rows = packed, rows
    return linear


class _Measured(NamedTuple):
    copies: list[Tensor]
    rows: frozenset[int]
    """The probed numbers of rows at which products of the copies win."""
    share: float
    """Of the time of plain products that is left if the quicker ones are taken, mean over the numbers of rows."""


@torch.inference_mode()
def _measured(linears: Sequence[nn.Linear], dtype: torch.dtype) -> _Measured:
    """Copies in this type of linears that are of one shape."""
    copies = [_packed(linear.weight, dtype) for linear in linears]
    pairs = [(linear.weight, packed, linear.bias) for linear, packed in zip(linears, copies, strict=True)]
    shares = {}
    for num_rows in PROBED_ROWS:
        x = torch.ones(num_rows, linears[0].in_features, dtype=linears[0].weight.dtype)
        times = [_times(pairs, x) for _ in range(ROUNDS + 1)][1:]
        plain, packed = (min(side) for side in zip(*times, strict=True))
        shares[num_rows] = packed / plain
    won = frozenset(num_rows for num_rows, share in shares.items() if share < WORTH)
    return _Measured(copies, won, sum(min(1.0, share) for share in shares.values()) / len(shares))


def _times(pairs: Iterable[tuple[Tensor, Tensor, Tensor | None]], x: Tensor) -> tuple[float, float]:
    """Seconds of all plain products, then of all packed ones."""
    start = time.perf_counter()
    for weight, _, bias in pairs:
        F.linear(x, weight, bias)
    between = time.perf_counter()
    for _, packed, bias in pairs:
        _product(x, packed, bias)
    return between - start, time.perf_counter() - between


def _packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), None)
    return packed


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """What `torch.compile` itself calls for a linear whose weight it froze. The result has the type of `x`."""
    rounded = packed.dtype != x.dtype
    own = None if rounded else bias
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(packed.dtype), packed, own, "none", [], "").to(x.dtype)
    return y + bias if rounded and bias is not None else y


def _decider(num_rows: int) -> int | None:
    """Which of the probed numbers of rows decides for this one."""
    return next((probed for probed in PROBED_ROWS if num_rows <= probed), None)
