"""unsway-client with both majors of the openai package: its types, its calls, its pictures."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import ROOT, Matrix, environment
from tests.server.live import Live

pytestmark = pytest.mark.clients

CLIENT = ROOT / "clients" / "python"
USE = """
import asyncio, sys
from tests.python_client.typed_use import use, use_async
from unsway_client import AsyncUnswayOpenAI, UnswayOpenAI
use(UnswayOpenAI(base_url=sys.argv[1]))
asyncio.run(use_async(AsyncUnswayOpenAI(base_url=sys.argv[1])))
print("all calls were made")
"""


@pytest.mark.parametrize(
    ("client", "checked"),
    [
        ("openai2", ("-m", "unsway_client", "-m", "tests.python_client.typed_use")),
        ("openai3", ("-m", "unsway_client", "-m", "tests.python_client.typed_use")),
        ("langchain", ("-m", "unsway_client.langchain")),
    ],
)
def test_types(folder: Path, client: str, checked: tuple[str, ...], tmp_path: Path) -> None:
    command = [folder / client / "bin" / "python", "-m", "mypy", "--config-file", CLIENT / "pyproject.toml"]
    variables = environment() | {"MYPYPATH": str(CLIENT)}
    done = subprocess.run(
        [*command, "--cache-dir", tmp_path, *checked], cwd=ROOT, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("client", ["openai2", "openai3"])
def test_calls(folder: Path, live: Live, client: str) -> None:
    variables = environment() | {"PYTHONPATH": os.pathsep.join([str(CLIENT), str(ROOT)])}
    command = [folder / client / "bin" / "python", "-c", USE, f"{live.url}/v1"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)
    assert done.stdout.endswith("all calls were made\n"), done.stderr


@pytest.mark.parametrize("client", ["openai2", "openai3"])
def test_profiles_and_jobs(matrix: Matrix, client: str) -> None:
    assert matrix.cell(client, "managing.py", "profiles") == [["candid", "steady"], ["candid"]]
    told = matrix.cell(client, "managing.py", "jobs")
    assert (told["last"]["event"], told["last"]["data"]["state"]) == ("end", "completed")
    assert told["rest"] is True and told["forgotten"]["deleted"] is True


def test_pictures_of_a_trace(matrix: Matrix) -> None:
    drawn = matrix.cell("openai3", "pictures.py", "trace")
    tokens = [text for line in drawn["text"] for text in line if text]
    assert tokens[:4] == ["·The", "·answer", "·is", "·Paris"] and len(drawn["text"]) == 2
    assert drawn["z"][0][3] == pytest.approx(0.997, abs=1e-3) and drawn["z"][1][-1] is None
    assert "the gate opened" in drawn["hovertext"][0][3] and "early: ·Paris" in drawn["hovertext"][0][3]


@pytest.mark.parametrize("statistic", ["entropy", "kl", "top"])
def test_pictures_of_a_lens(matrix: Matrix, statistic: str) -> None:
    drawn = matrix.cell("openai3", "pictures.py", statistic)
    assert drawn["y"][-1] == "output" and len(drawn["z"]) == len(drawn["y"]) and len(drawn["x"]) == 3
    assert all(value >= 0 for line in drawn["z"] for value in line)
    assert statistic != "top" or all(value <= 1 for line in drawn["z"] for value in line)
    assert statistic != "kl" or max(drawn["z"][-1]) < 1e-6  # of the output to itself
