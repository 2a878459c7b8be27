"""Threads on the CPU: more of them are not always quicker, above all for small models, so it is measured.

Threads of one step wait for each other by spinning. Beside another busy process each of them waits, at every product,
for one that does not run: a step can take fifty times as long. So more of them have to be worth it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import nn
from torch.nn import functional as F

ROWS = (1, 8)
"""Numbers of rows of the steps that are timed: where many decode, more threads are quicker anyway."""
ROUNDS, SECONDS = 3, 0.5
"""At least so many, and for so long: small models are timed often enough that other processes do not decide."""
WORTH = 0.9
"""More threads must need less than this share of the time of fewer."""
TIMED_BYTES = 2**28
"""Of weights: more than caches hold, and little enough that a large model starts no later."""


def quickest_num_threads(model: nn.Module) -> int:
    """Of one thread, half of PyTorch's own number and that number: the fewest with which the linears of a model on the
    CPU are about as quick as they can be. PyTorch's own where nothing is on the CPU. The number in force is left as it
    was."""
    usual = torch.get_num_threads()
    linears = [m for m in model.modules() if isinstance(m, nn.Linear) and m.weight.device.type == "cpu"]
    if not linears:
        return usual
    ends = accumulate(linear.weight.nbytes for linear in linears)
    linears = linears[: 1 + sum(end < TIMED_BYTES for end in ends)]
    times = dict.fromkeys(sorted({1, max(1, usual // 2), usual}), math.inf)
    rounds, end = 0, time.perf_counter() + SECONDS
    while len(times) > 1 and (rounds < ROUNDS or time.perf_counter() < end):
        times = {count: min(least, _seconds(linears, count)) for count, least in times.items()}
        rounds += 1
    torch.set_num_threads(usual)
    chosen = 1
    for count, seconds in times.items():
        if seconds < WORTH * times[chosen]:
            chosen = count
    return chosen


@torch.inference_mode()
def _seconds(linears: Sequence[nn.Linear], num_threads: int) -> float:
    """Of one step of each number of rows; the better of two, since the first may have to start threads."""
    torch.set_num_threads(num_threads)
    total = 0.0
    for num_rows in ROWS:
        inputs = [torch.ones(num_rows, linear.in_features, dtype=linear.weight.dtype) for linear in linears]
        total += min(_timed(linears, inputs), _timed(linears, inputs))
    return total


def _timed(linears: Sequence[nn.Linear], inputs: Sequence[torch.Tensor]) -> float:
    start = time.perf_counter()
    for linear, x in zip(linears, inputs, strict=True):
        F.linear(x, linear.weight, linear.bias)
    return time.perf_counter() - start
