"""`unsway trace` and `unsway lens show`: here or at a URL, printed, and written as files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from server.terminal.sheet import Cell, Sheet, as_csv, as_html, colour_of, print_sheet
from server.terminal.trace import print_trace
from tests.command_line import Outcome, unsway
from tests.server.live import Live

PROMPT = "Is it so?"


@pytest.fixture(scope="module")
def here(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The tiny model, in this process, and packs for it."""
    from tests.models import tiny_model
    from tests.server.packs import save_packs

    packs = tmp_path_factory.mktemp("packs")
    save_packs(packs, tiny_model(), tiny_model(seed=1))
    return ("--model", str(tiny_folder), "--packs", str(packs), "--profile", "candid", "--threads", "1")


def run(*arguments: str) -> Outcome:
    outcome = unsway(*arguments)
    assert outcome.code == 0, outcome
    return outcome


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_a_trace_shows_both_answers(here: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    out = run("trace", PROMPT, "--max-tokens", "6", "--out", str(file), *here).out
    assert "[steered]" in out and "[plain]" in out and "plain answer to compare with" in out
    told = rows(file)
    assert [row["index"] for row in told] == [*map(str, range(6))] * 2
    assert {row["steered"] for row in told if row["answer"] == "plain"} == {"0"}
    assert all(0 <= float(row["drift"]) <= 1 for row in told)
    fired = [row for row in told if row["answer"] == "steered" and row["fired"] == "1"]
    assert fired and "gate opened" in out and all(row["steered"] == "1" for row in fired)


def test_how_it_is_steered_reaches_the_request(here: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    run("trace", PROMPT, "--steer", "on", "--strength", "0", "--max-tokens", "4", "--out", str(file), *here)
    assert {(row["answer"], row["steered"]) for row in rows(file)} == {("steered", "0")}
    run("trace", PROMPT, "--steer", "observe", "--threshold", "0", "--max-tokens", "4", "--out", str(file), *here)
    assert rows(file)[0]["fired"] == "1"  # and is latched from there on
    assert {(row["answer"], row["steered"]) for row in rows(file)} == {("plain", "0")}
    unsway("trace", PROMPT, "--strength", "9", *here).refuses("strength must be between 0 and 2")
    unsway("trace", PROMPT, "--threshold", "7", *here).refuses("threshold")


def test_a_lens_shows_layers_by_tokens(here: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "lens.csv"
    asked = ("lens", "show", PROMPT, "--answer", "It", "--candidates", "a, b", "--last", "3", *here)
    out = run(*asked, "--out", str(file)).out
    assert [line.split()[0] for line in out.splitlines()[1:6]] == ["output", "3", "2", "1", "0"]
    assert "blue: a, orange: b" in out
    told = rows(file)
    assert len(told) == 3 * 5 and {row["lens"] for row in told} == {"logit", "output"}
    assert all(float(row["kl"]) == pytest.approx(0, abs=1e-6) for row in told if row["lens"] == "output")
    assert all(0 < float(row["P(a)"]) < 1 and 0 < float(row["probability"]) <= 1 for row in told)
    assert "KL(output || layer)" in run("lens", "show", PROMPT, *here).out


def test_a_server_is_asked_and_says_the_same(live: Live, tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    out = run("trace", "Hello there", "--url", live.url, "--max-tokens", "7", "--out", str(file)).out
    assert "candid@" in out and len(rows(file)) == 14
    unsway("trace", PROMPT, "--url", live.url, "--profile", "nobody").refuses("no profile named 'nobody'")
    unsway("trace", PROMPT, "--url", "nowhere").refuses("is no URL")


@pytest.mark.parametrize("ending", ["png", "html"])
@pytest.mark.parametrize("command", [("trace", PROMPT, "--max-tokens", "4"), ("lens", "show", PROMPT)])
def test_pictures_and_pages(here: tuple[str, ...], tmp_path: Path, command: tuple[str, ...], ending: str) -> None:
    file = tmp_path / f"out.{ending}"
    run(*command, "--out", str(file), *here)
    start = {"png": b"\x89PNG", "html": b"<!doctype html>"}[ending]
    assert file.read_bytes().startswith(start) and file.stat().st_size > 1000


def test_a_file_of_another_kind_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    for command in (("trace", "x"), ("lens", "show", "x")):
        unsway(*command, "--model", "no/such-model", "--out", str(tmp_path / "x.gif")).refuses(".png, .html or .csv")


TEXTS = ("=cmd()", "+1", "-1", "@SUM(A1)", "\tx", "\r=1", "<b>&", "plain", 'a"b,c', "\x1b[31m")
HOSTILE = Sheet(
    title="<script>",
    rows=(("<i>", tuple(Cell(text, 1.0) for text in TEXTS)),),
    columns=TEXTS,
    scale="<u>",
    diverging=False,
    header=("=h", "n"),
    records=tuple((text, -0.5) for text in TEXTS),
)


def test_T25_no_cell_is_a_formula() -> None:
    head, *told = csv.reader(io.StringIO(as_csv(HOSTILE), newline=""))
    assert head == ["'=h", "n"]
    assert [row[0] for row in told] == [f"'{text}" if text[0] in "=+-@\t\r" else text for text in TEXTS]
    assert {row[1] for row in told} == {"-0.5"}  # numbers stay numbers


def test_T25_no_cell_is_markup_or_an_escape_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    html = as_html(HOSTILE)
    assert not any(f"<{tag}>" in html for tag in ("script", "b", "i", "u")) and "&lt;b&gt;&amp;" in html
    assert "http" not in html
    print_sheet(HOSTILE, Console(force_terminal=True, width=400, highlight=False))
    assert "\x1b[31m" not in capsys.readouterr().out


def test_colours_follow_the_value() -> None:
    assert colour_of(0.0, diverging=True) is None and colour_of(0.0, diverging=False) is None
    blue, orange = colour_of(1.0, diverging=True), colour_of(-1.0, diverging=True)
    assert blue and orange and blue[2] > blue[0] and orange[0] > orange[2]
    strong, faint = colour_of(1.0, diverging=False), colour_of(0.1, diverging=False)
    assert strong and faint and sum(faint) > sum(strong)


def test_an_answer_without_a_trace_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    entry = {"token": " Hi", "logprob": -0.1}
    choice = {"index": 0, "finish_reason": "stop", "logprobs": {"content": [entry]}, "message": {"content": "Hi"}}
    print_trace({"choices": [choice]}, Console())
    assert "[plain]" in capsys.readouterr().out
