"""A short soak; the long one is `python -m tests.e2e.soak`."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.bench.servers import unsway
from tests.e2e.soak import OPTIONS, soak


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory and open files are read from /proc")
def test_R1_nothing_is_left_behind_by_mixed_requests() -> None:
    with unsway(*OPTIONS) as server:
        result = asyncio.run(soak(server, requests=600, seed=1, clients=24))
    assert not result.wrong
    assert result.canaries >= 2 and result.after["preemptions"] > 0 and result.after["prefix_cache"]["hits"] > 0
    left = sum(count for (_, how), count in result.ended.items() if how == "left")
    assert left > 60 and len({kind for kind, _ in result.ended}) == 10, result.ended
