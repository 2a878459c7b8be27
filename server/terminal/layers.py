"""`unsway lens show`: what every layer would say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from server.terminal.sheet import Cell, Sheet

Json = dict[str, Any]


def body(prompt: str, opening: str, candidates: Sequence[str], *, profile: str | None, last: int | None) -> Json:
    """Candidates follow the opening as words: with the space before them."""
    messages = [{"role": "user", "content": prompt}]
    if opening:
        messages.append({"role": "assistant", "content": opening})
    space = " " if opening and not opening[-1].isspace() else ""
    asked: Json = {"messages": messages, "top_logprobs": 5}
    words = [space + word.strip() for word in candidates if word.strip()]
    named = {"candidates": words or None, "profile": profile, "positions": last}
    return asked | {key: value for key, value in named.items() if value is not None}


def sheet(reply: Json, prompt: str) -> Sheet:
    """Layers by tokens, the output on top. Coloured by the first two candidates, else by the distance to the output."""
    positions, names = reply["positions"], [candidate["text"].strip() for candidate in reply.get("candidates", [])]
    diverging = len(names) > 1
    most = max((cell["kl"] for position in positions for cell in position["layers"]), default=1.0) or 1.0

    def value(cell: Json) -> float:
        if not diverging:
            return float(cell["kl"]) / most
        truth, claim = (math.exp(logprob) for logprob in cell["candidates"][:2])
        return truth - claim

    rows = []
    for index, layer in reversed(list(enumerate(reply["layers"]))):
        cells = tuple(Cell(_top(position["layers"][index]), value(position["layers"][index])) for position in positions)
        rows.append((_name(layer), cells))
    return Sheet(
        title=prompt,
        rows=tuple(rows),
        columns=tuple(position["token"] for position in positions),
        scale=f"blue: {names[0]}, orange: {names[1]}"
        if diverging
        else f"shade: KL(output || layer), to {most:.1f} bits",
        diverging=diverging,
        header=(
            "position",
            "token",
            "layer",
            "lens",
            "top",
            "probability",
            "entropy",
            "kl",
            *(f"P({n})" for n in names),
        ),
        records=tuple(_record(reply, position, i) for position in positions for i in range(len(reply["layers"]))),
    )


def _record(reply: Json, position: Json, index: int) -> tuple[str | float | int, ...]:
    layer, cell = reply["layers"][index], position["layers"][index]
    text, logprob = cell["top"][0]
    shares = (math.exp(logprob) for logprob in cell.get("candidates", ()))
    where = (position["position"], position["token"], layer["layer"], layer["lens"])
    return (*where, text, math.exp(logprob), cell["entropy"], cell["kl"], *shares)


def _top(cell: Json) -> str:
    text: str = cell["top"][0][0]
    return text


def _name(layer: Json) -> str:
    if layer["lens"] == "output":
        return "output"
    return f"{layer['layer']} tuned" if layer["lens"] == "tuned" else str(layer["layer"])
