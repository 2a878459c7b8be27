"""unsway-client with plotly: what the figures hold, and that they can be written."""

from __future__ import annotations

from typing import Any

from cells import ASKED, MODEL, TRACED, addresses, run

from unsway_client import UnswayOpenAI, plot_lens, plot_trace

client = UnswayOpenAI(base_url=addresses()["live"])
reply: Any = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0, steering=TRACED)
grid = client.lens(messages=ASKED, positions=3)


def heat(figure: Any) -> dict[str, Any]:
    assert figure.to_html(include_plotlyjs=False)
    return {key: figure.to_dict()["data"][0].get(key) for key in ("text", "z", "hovertext", "x", "y")}


run(
    trace=lambda: heat(plot_trace(reply)),
    **{name: lambda name=name: heat(plot_lens(grid, name)) for name in ("entropy", "kl", "top")},
)
