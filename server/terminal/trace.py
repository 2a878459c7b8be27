"""`unsway trace`: an answer, token by token, beside what the early layer read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from server.terminal.screen import receipt_line
from server.terminal.sheet import Cell, Sheet, shaded, visible

Json = dict[str, Any]
TOLD = 0.01
"""Bits of drift from which on a token has a line of its own."""
SCALE = "shade: drift of early and late, 0 to 1 bit; underlined: the gate opened"


def body(prompt: str, steering: Json, max_tokens: int | None) -> Json:
    asked: Json = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "logprobs": True}
    told = {key: value for key, value in steering.items() if value is not None} | {"trace": "tokens"}
    return asked | {"steering": told} | ({} if max_tokens is None else {"max_tokens": max_tokens})


def print_trace(reply: Json, console: Console) -> None:
    for choice in reply["choices"]:
        entries = choice["logprobs"]["content"]
        console.print(Text(f"[{_name(choice)}]", "dim"))
        console.print(_answer(entries), soft_wrap=True)
        console.print(Text(receipt_line(choice, len(entries)), "dim"), soft_wrap=True)
        if any(_is_told(entry) for entry in entries):
            console.print(_table(entries, _name(choice)))
        console.print()
    console.print(Text(SCALE, "dim"), soft_wrap=True)


def sheet(reply: Json, prompt: str) -> Sheet:
    """Answers one below the other."""
    choices = reply["choices"]
    length = max(len(choice["logprobs"]["content"]) for choice in choices)
    rows = []
    for choice in choices:
        cells = [Cell(e["token"], _drift(e)) for e in choice["logprobs"]["content"]]
        rows.append((_name(choice), (*cells, *[Cell("", 0.0)] * (length - len(cells)))))
    return Sheet(
        title=prompt,
        rows=tuple(rows),
        columns=tuple(str(i + 1) for i in range(length)),
        scale="shade: drift of early and late, 0 to 1 bit",
        diverging=False,
        header=(
            "answer",
            "index",
            "token",
            "probability",
            "drift",
            "fired",
            "steered",
            "early",
            "early p",
            "late",
            "late p",
        ),
        records=tuple(record for choice in choices for record in _records(choice)),
    )


def _records(choice: Json) -> Iterator[tuple[str | float | int, ...]]:
    for index, entry in enumerate(choice["logprobs"]["content"]):
        trace = entry.get("steering", {})
        drift = trace.get("drift", "")
        marks = (int(trace.get("fired", False)), int(trace.get("steered", False)))
        sides = (*_first(trace.get("early")), *_first(trace.get("late")))
        yield (_name(choice), index, entry["token"], math.exp(entry["logprob"]), drift, *marks, *sides)


def _first(said: object) -> tuple[str, float | str]:
    if not isinstance(said, list) or not said:
        return ("steered" if said == "steered" else "", "")
    return said[0][0], math.exp(said[0][1])


def _answer(entries: list[Json]) -> Text:
    text = Text()
    for entry in entries:
        token = shaded(entry["token"], _drift(entry), diverging=False)
        if entry.get("steering", {}).get("fired"):
            token.stylize("bold underline")
        text.append_text(token)
    return text


def _table(entries: list[Json], name: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("", "token", "drift", "early", "", "late", "", ""):
        table.add_column(column)
    for index, entry in enumerate(entries):
        if _is_told(entry):
            trace = entry["steering"]
            early, late = (_said(trace.get(side)) for side in ("early", "late"))
            opened = "gate opened" if name == "steered" else "gate would open"
            done = opened if trace["fired"] else "corrected" if trace["steered"] else ""
            drift = f"{trace['drift']:.2f}" if "drift" in trace else ""
            table.add_row(str(index), Text(visible(entry["token"])), drift, *map(Text, (*early, *late)), done)
    return table


def _said(said: object) -> tuple[str, str]:
    text, share = _first(said)
    return visible(text) if text else "", f"{share:.0%}" if isinstance(share, float) else ""


def _is_told(entry: Json) -> bool:
    return "steering" in entry and (bool(entry["steering"]["fired"]) or _drift(entry) >= TOLD)


def _drift(entry: Json) -> float:
    return float(entry.get("steering", {}).get("drift", 0.0))


def _name(choice: Json) -> str:
    receipt = choice.get("steering")
    return "plain" if receipt is None or receipt["mode"] == "off" else {"on": "steered"}.get(receipt["mode"], "plain")
