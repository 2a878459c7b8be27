"""The whole command on a tiny model: a table, a JSON file and a picture come out of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.bench import names
from tests.bench.__main__ import main


@pytest.fixture
def threads() -> Iterator[None]:
    """The command sets them for its whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_one_command_reports_every_kind_of_steering(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--sections", "steering", "--engines", "plain", "--shapes", "tiny"]
    command += ["--batches", "2", "--new", "4", "--rounds", "2"]
    main([*command, "--json", str(tmp_path / "speed.json"), "--picture", str(tmp_path / "speed.svg")])
    written = json.loads((tmp_path / "speed.json").read_text())
    found = {(line["name"], line["to"]): line for line in written["results"]}
    for name in (
        names.PRESENT_OFF,
        names.ONE_PROFILE,
        names.WATCHING,
        names.FIRING_SOME,
        names.FIRING_ALL,
        names.TUNED,
    ):
        assert found[name, names.OFF]["rounds"] == 2 and found[name, names.OFF]["ratio"]["estimate"] > 0
    assert found[names.RESIDENT, names.ONE_PROFILE]["speed"] > 0
    assert found[names.PRESENT_OFF, names.OFF]["verdict"] == "too few rounds"
    (note,) = written["notes"]
    assert note.startswith(
        "steering, plain, tiny, batch 2, context 68: 0 linears packed, not compiled; where 5 % are to"
    )
    assert names.FIRING_ALL in capsys.readouterr().out and (tmp_path / "speed.svg").exists()
