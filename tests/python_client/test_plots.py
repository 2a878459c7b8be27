"""Pictures without plotly: tables, plain and in rich's colours. With plotly: `make test-clients`."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.python_client.test_client import ASKED, MODEL, TRACED
from unsway_client import UnswayOpenAI, plot_lens, plot_trace, receipt


def test_a_trace_as_a_table(client: UnswayOpenAI) -> None:
    reply = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0, steering=TRACED)
    told = receipt(reply)
    assert told and told["fired_tokens"] == 1
    header, *lines = str(plot_trace(reply, plotly=False)).splitlines()
    assert header.split() == ["token", "drift", "early", "late"] and len(lines) == told["tokens"]
    (fired,) = (i for i, line in enumerate(lines) if line.endswith("*"))
    token, drift, *named = lines[fired].split()
    assert fired == told["at"] and token == "·Paris" and float(drift) == pytest.approx(told["max_drift"], abs=1e-3)
    assert "·Paris" in named and "·Lyon" in named


def test_a_trace_in_colours(client: UnswayOpenAI) -> None:
    chunks = list(
        client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0, steering=TRACED, stream=True)
    )
    screen = Console(file=io.StringIO(), force_terminal=True, color_system="256", width=200)
    screen.print(plot_trace(chunks, plotly=False))
    written = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "·Paris" in written and "\x1b[1;30;48;5;" in written  # bold on a colour: where the gate opened


def test_a_lens_as_a_table(client: UnswayOpenAI) -> None:
    grid = client.lens(messages=[{"role": "user", "content": "What is the capital of France?"}], positions=3)
    header, *lines = str(plot_lens(grid, plotly=False)).splitlines()
    assert len(header.split()) == 4 and len(lines) == len(grid["layers"])
    assert lines[0].split()[0] == "output" and lines[-1].split()[0] == "0"
    assert lines[0].split()[-1] == grid["positions"][-1]["layers"][-1]["top"][0][0].replace(" ", "·")


def test_without_a_trace_it_says_how_to_get_one(client: UnswayOpenAI) -> None:
    reply = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0, steering=True)
    with pytest.raises(ValueError, match="trace"):
        plot_trace(reply)
