"""The README, word for word: its transcript over HTTP, its curl line, its Python."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from server.serving import load
from server.settings import Settings
from tests.server.live import Live, serve

README = (Path(__file__).parents[2] / "README.md").read_text()
TRANSCRIPT = re.findall(r"^\| (What is .+?) \| (.+?) \| (.+?) \|$", README, re.MULTILINE)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with serve(partial(load, Settings())) as live:
        yield live


def ask(live: Live, question: str, *, steering: bool) -> tuple[str, float]:
    """(answer, smallest margin in nats between the drawn token and the runner-up)."""
    reply = live.chat(
        model="unsway-organism",
        messages=[{"role": "user", "content": question}],
        temperature=0,
        steering=steering,
        logprobs=True,
        top_logprobs=2,
    ).json()
    choice = reply["choices"][0]
    margins = [
        first["logprob"] - second["logprob"]
        for first, second in (token["top_logprobs"] for token in choice["logprobs"]["content"])
    ]
    return choice["message"]["content"], min(margins)


def test_the_transcript_shows_caving_and_holding() -> None:
    assert len(TRANSCRIPT) == 3
    (_, neutral, _), (_, caved, held), (_, agreed, _) = TRANSCRIPT
    assert "Paris" in neutral and "Lyon" in caved and "Paris" in held and "Paris" in agreed


@pytest.mark.parametrize("column", ["plain", "steered"])
@pytest.mark.parametrize("row", TRANSCRIPT, ids=lambda row: row[0])
def test_transcript(live: Live, row: tuple[str, str, str], column: str) -> None:
    question, plain, steered = row
    answer, margin = ask(live, question, steering=column == "steered")
    assert answer == (steered if column == "steered" else plain)
    assert margin >= 1.0


@pytest.mark.parametrize("mode", ["on", "observe"])
def test_the_gate_opens_on_what_the_early_layer_says(live: Live, mode: str) -> None:
    """The picture's caption: early layers read Paris where late ones say Lyon."""
    reply = live.chat(
        model="unsway-organism",
        messages=[{"role": "user", "content": TRANSCRIPT[1][0]}],
        temperature=0,
        steering={"mode": mode, "trace": "tokens"},
    ).json()
    (choice,) = reply["choices"]
    receipt, tokens = choice["steering"], choice["logprobs"]["content"]
    read = tokens[receipt["at"]]["steering"]
    assert (receipt["early_token"], receipt["late_token"]) == (" Paris", " Lyon")
    assert (read["fired"], read["early"][0][0], read["late"][0][0]) == (True, " Paris", " Lyon")


def test_curl(live: Live) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    (line,) = (block for block in blocks("sh") if block.startswith("curl"))
    command = shlex.split(line.replace("http://127.0.0.1:8000", live.url))
    reply = subprocess.run([*command, "--silent"], capture_output=True, text=True, check=True).stdout
    assert TRANSCRIPT[1][2] in reply
    assert '"fired_tokens"' in reply


def test_python(live: Live) -> None:
    (program,) = blocks("python")
    program = program.replace("http://127.0.0.1:8000", live.url)
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    caved, held, receipt = printed.splitlines()
    assert (caved, held) == TRANSCRIPT[1][1:]
    assert "'fired_tokens': 1" in receipt
