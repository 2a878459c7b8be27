"""kill -9 of the server at a random moment of a job, again and again: one result each, that of an unbroken run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.jobs.killed import STEPS
from tests.server.jobs.kinds import total


@pytest.mark.skipif(not hasattr(os, "fork"), reason="servers are forks of one process")
@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_L5_L6_kills_at_random_moments(tmp_path: Path, kills: int) -> None:
    command = [sys.executable, "-m", "tests.server.jobs.killed", str(tmp_path), str(kills), "3"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    found = json.loads(ended.stdout)
    squares = [i * i for i in range(STEPS)]
    assert len(found) >= 2 and max(attempts for _, _, attempts, _ in found) > 1, "some were interrupted"
    for state, result, _, numbers in found:
        assert state == "completed" and result["sum"] == total(STEPS)
        assert numbers == squares, "nothing is done twice, nothing left out"
    assert sum(attempts for _, _, attempts, _ in found) <= kills + len(found)
