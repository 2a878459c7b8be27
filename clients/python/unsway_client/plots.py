"""Pictures of an answer and of a prompt: plotly figures where plotly is installed, else a table.

In a notebook the last expression of a cell shows itself; elsewhere `figure.show()`, or `print(table)`.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from unsway_client.replies import Reply, trace
from unsway_client.table import Row, Table
from unsway_client.types import LensCell, LensReply, TokenTrace

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PER_LINE = 12
NAMED = 3
"""Tokens that the text under the pointer names."""
Statistic = Literal["entropy", "kl", "top"]


def plot_trace(reply: Reply | Iterable[Reply], choice: int = 0, *, plotly: bool | None = None) -> Figure | Table:
    """The tokens of an answer, coloured by the drift between what the early layers and the output would have said.

    Of a request with `trace: "tokens"`. plotly: False for the table in any case.
    """
    tokens = trace(reply, choice)
    if not any("steering" in token for token in tokens):
        raise ValueError('there is no trace in this reply: ask with steering={"trace": "tokens"}')
    rows = [_traced(token["token"], token.get("steering")) for token in tokens]
    if not _has_plotly(plotly):
        return Table(("token", "drift", "early", "late"), rows)
    lines = [rows[start : start + PER_LINE] for start in range(0, len(rows), PER_LINE)]
    return _heatmap(
        {
            "z": _padded([[row.heat for row in line] for line in lines]),
            "text": _padded([[escape(row.cells[0]) for row in line] for line in lines], ""),
            "hovertext": _padded([[_hover(row) for row in line] for line in lines], ""),
        },
        bar="drift, bits",
        most=1.0,
        height=90 + 34 * len(lines),
    )


def plot_lens(reply: LensReply, statistic: Statistic = "entropy", *, plotly: bool | None = None) -> Figure | Table:
    """The grid of layers and tokens: the token each layer would say next, coloured by `statistic`.

    `entropy` and `kl` (to the output) in bits, `top` the probability of the token named. The output is the topmost row.
    """
    tokens = [_shown(position["token"]) for position in reply["positions"]]
    layers = [_layer(layer["layer"], layer["lens"]) for layer in reply["layers"]]
    grid = [[position["layers"][i] for position in reply["positions"]] for i in range(len(layers))]
    said = [[_shown(cell["top"][0][0]) for cell in line] for line in grid]
    heat = [[_value(cell, statistic) for cell in line] for line in grid]
    if not _has_plotly(plotly):
        lines = [Row((layers[i], *said[i]), None, False) for i in reversed(range(len(layers)))]
        return Table(("layer", *tokens), lines)
    return _heatmap(
        {
            "z": heat,
            "text": [[escape(text) for text in line] for line in said],
            "hovertext": [[_names(cell["top"], "<br>") for cell in line] for line in grid],
            "x": [f"{position['position']}: {escape(_shown(position['token']))}" for position in reply["positions"]],
            "y": layers,
        },
        bar="probability" if statistic == "top" else f"{statistic}, bits",
        most=1.0 if statistic == "top" else None,
        height=120 + 24 * len(layers),
    )


def _traced(token: str, told: TokenTrace | None) -> Row:
    if told is None or "drift" not in told:
        return Row((_shown(token), "", "", ""), None, False)
    late = told.get("late", [])
    named = late if isinstance(late, str) else _names(late)
    cells = (_shown(token), f"{told['drift']:.3f}", _names(told.get("early", [])), named)
    return Row(cells, told["drift"], told["fired"])


def _hover(row: Row) -> str:
    _, drift, early, late = row.cells
    fired = "<br><b>the gate opened</b>" if row.fired else ""
    return f"drift {drift}<br>early: {escape(early)}<br>late: {escape(late)}{fired}" if drift else ""


def _names(pairs: Iterable[Any], between: str = ", ") -> str:
    """(text, log-probability) pairs, most probable first."""
    return between.join(f"{_shown(text)} {math.exp(value):.2f}" for text, value in list(pairs)[:NAMED])


def _value(cell: LensCell, statistic: Statistic) -> float:
    return math.exp(cell["top"][0][1]) if statistic == "top" else cell[statistic]


def _layer(index: int, lens: str) -> str:
    return "output" if lens == "output" else f"{index} ({lens})"


def _shown(token: str) -> str:
    """Blanks and line ends made visible."""
    return token.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")


def _padded(lines: list[list[Any]], filler: Any = None) -> list[list[Any]]:
    width = max(len(line) for line in lines)
    return [line + [filler] * (width - len(line)) for line in lines]


def _has_plotly(wanted: bool | None) -> bool:
    if wanted is None:
        return importlib.util.find_spec("plotly") is not None
    return wanted


def _heatmap(data: dict[str, Any], *, bar: str, most: float | None, height: int) -> Figure:
    from plotly.graph_objects import Figure, Heatmap

    named = "x" in data
    heat = Heatmap(
        **data,
        texttemplate="%{text}",
        hoverinfo="text",
        colorscale="YlOrRd",
        zmin=0,
        zmax=most,
        xgap=2,
        ygap=2,
        colorbar={"title": bar},
    )
    figure = Figure(heat)
    figure.update_layout(height=max(height, 220), margin={"l": 10, "r": 10, "t": 20, "b": 10}, plot_bgcolor="white")
    figure.update_xaxes(visible=named, type="category" if named else None)
    figure.update_yaxes(visible=named, type="category" if named else None, autorange=True if named else "reversed")
    return figure
