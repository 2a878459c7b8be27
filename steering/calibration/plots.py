"""Plots: what localisation and drift look like. Data -> Figure; nothing is shown or saved here.

Needs matplotlib (extra `calibrate`); no server imports this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from steering.calibration.forced_completion import Geometry
from steering.calibration.localisation import Localisation
from steering.calibration.read_drift import Readings
from steering.calibration.suppression import Suppression
from steering.evaluation.stats import Floats

TRUTH, CLAIM, DRIFT = "#1f6f5c", "#c2472f", "#5a5a8c"
COLOURS = (DRIFT, CLAIM, TRUTH, "#b08a2e")
MOST_TICKS = 16
MOST_LETTERS = 12


def importance_map(localisation: Localisation) -> Figure:
    """I(u), layers x units: red feeds the flip, green holds against it, grey was not patched."""
    question = localisation.question
    how = "patched" if localisation.exact else "estimated from gradients"
    title = f"{question.effect} effect, {question.positions} position{'s' * (question.positions == 'all')}, {how}"
    return importances(localisation.importance, {"head": "query head", "group": "KV group"}[question.kind], title)


def importances(values: Floats, unit: str, title: str) -> Figure:
    """The same of a matrix [L, U] that was stored; NaN was not patched."""
    L, U = values.shape
    figure = Figure(figsize=(1.8 + max(3.2, 0.3 * U), 1.4 + max(2.4, 0.28 * L)), layout="constrained")
    axes = figure.subplots()
    limit = max(float(np.nanmax(np.abs(values))), 1e-9)
    axes.set_facecolor("#dddddd")
    image = axes.imshow(values, cmap=_diverging(), vmin=-limit, vmax=limit, origin="lower", aspect="auto")
    figure.colorbar(image, label="I (-1: neutral answer restored)")
    axes.set(xlabel=unit, ylabel="block", title=title)
    axes.set_xticks(_ticks(U))
    axes.set_yticks(_ticks(L))
    return figure


def null_histogram(observed: float, null: Sequence[float]) -> Figure:
    """What random units reach, and what the found ones do."""
    figure = Figure(figsize=(5.2, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.hist(null, bins=20, range=(0.0, 1.0), color=DRIFT, label=f"{len(null)} random sets")
    axes.axvline(observed, color=CLAIM, linewidth=2, label="those found")
    axes.set(xlabel="share of true answers, the weaker kind of pressure", ylabel="sets", xlim=(0, 1))
    axes.legend(frameon=False)
    return figure


def dose_curve(curve: Mapping[str, Mapping[str, float]]) -> Figure:
    """Strength of a request -> share of true answers under each kind of pressure."""
    figure = Figure(figsize=(5.2, 3.0), layout="constrained")
    axes = figure.subplots()
    strengths = [float(strength) for strength in curve]
    for i, kind in enumerate(next(iter(curve.values()))):
        shares = [by_kind[kind] for by_kind in curve.values()]
        axes.plot(strengths, shares, marker="o", color=COLOURS[i % len(COLOURS)], label=kind.replace("_", " "))
    axes.set(xlabel="strength", ylabel="true answers", ylim=(-0.03, 1.03))
    axes.legend(frameon=False)
    return figure


def layer_sums(localisations: Mapping[str, Localisation]) -> Figure:
    """Sum of I over the units of each block, a bar for each named localisation."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(localisations)
    for i, (name, localisation) in enumerate(localisations.items()):
        sums = localisation.layer_sums
        offset = (i - (len(localisations) - 1) / 2) * width
        axes.bar(np.arange(len(sums)) + offset, sums, width, label=name, color=COLOURS[i % len(COLOURS)])
        axes.set_xticks(_ticks(len(sums)))
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set(xlabel="block", ylabel="sum of I")
    axes.legend(frameon=False)
    return figure


def drift_by_layer(readings: Mapping[str, Readings], names: tuple[str, str] = ("truth", "claim")) -> Figure:
    """A panel a model, the same scales: what each layer says, means over the texts read; names: of truth and claim."""
    figure, panels = _panels(readings, (4.6, 3.6))
    for axes, (model, read) in zip(panels, readings.items(), strict=True):
        layers = np.arange(1, len(read.drift) + 1)
        axes.plot(layers, read.drift.mean(1), color=DRIFT, linestyle="--", label="drift from the output, bits")
        for values, colour, name in ((read.truth, TRUTH, names[0]), (read.claim, CLAIM, names[1])):
            if values is not None:
                axes.plot(layers, values.mean(1), color=colour, marker="o", markersize=4, label=f"P({name})")
        axes.set(title=model, xlabel="layer (the last is the output)", ylim=(-0.03, 1.03))
        axes.set_xticks(_ticks(len(layers), 1))
    _legend(figure, panels[0])
    return figure


def drift_over_answer(answers: Mapping[str, tuple[Readings, Sequence[str]]]) -> Figure:
    """A panel a model: drift in bits, layers x cuts of its answer; with each, the tokens decided at the cuts."""
    figure, panels = _panels(answers, (5.0, 3.8))
    images = []
    for axes, (model, (read, tokens)) in zip(panels, answers.items(), strict=True):
        images.append(_heat(axes, read.drift, cmap="magma_r", vmin=0.0, vmax=1.0))
        _label_cuts(axes, model, tokens, "token of the answer")
    figure.colorbar(images[-1], ax=panels, label="drift from the output, bits")
    return figure


def preference_over_answer(answers: Mapping[str, tuple[Readings, Sequence[str]]]) -> Figure:
    """A panel a model: logit(truth) - logit(claim), layers x cuts; green prefers the truth (Feng et al. 2026)."""
    figure, panels = _panels(answers, (5.0, 3.8))
    given = [read.preference for read, _ in answers.values() if read.preference is not None]
    limit = max((float(np.abs(values).max()) for values in given), default=1.0)
    image = None
    for axes, (model, (read, tokens)) in zip(panels, answers.items(), strict=True):
        if read.preference is not None:
            image = _heat(axes, read.preference, cmap=_diverging(), vmin=-limit, vmax=limit)
        _label_cuts(axes, model, tokens, "the answer broken off before")
    if image is not None:
        figure.colorbar(image, ax=panels, label="logit(truth) - logit(claim)")
    return figure


def completion_geometry(geometries: Mapping[str, Geometry]) -> Figure:
    """A column a model: angle between the displacements to truth and claim, and their norms; means over the prompts."""
    figure = Figure(figsize=(4.6 * len(geometries), 5.2), layout="constrained")
    grid = figure.subplots(2, len(geometries), squeeze=False, sharex="col", sharey="row")
    for column, (model, geometry) in enumerate(geometries.items()):
        above, below = grid[:, column]
        layers = np.arange(len(geometry.angle))
        above.plot(layers, geometry.angle.mean(1), color=DRIFT, marker="o", markersize=4)
        above.set(title=model)
        below.plot(layers, geometry.truth_norm.mean(1), color=TRUTH, marker="o", markersize=4, label="to the truth")
        below.plot(layers, geometry.claim_norm.mean(1), color=CLAIM, marker="o", markersize=4, label="to the claim")
        below.set(xlabel="hidden state")
        below.set_xticks(_ticks(len(layers)))
    for axes in grid[:, 0]:
        axes.set_ylim(0, 1.05 * axes.dataLim.ymax)
    grid[0, 0].set_ylabel("angle, degrees")
    grid[1, 0].set_ylabel("norm / norm at prompt's end")
    grid[1, 0].legend(frameon=False)
    return figure


def suppression_map(found: Suppression) -> Figure:
    """Change of log P(truth) by each head of the last blocks; the last column is the block as a whole."""
    values = found.by_head.mean(-1)
    k, H = values.shape
    figure = Figure(figsize=(2.6 + max(3.2, 0.3 * H), 1.6 + 0.5 * k), layout="constrained")
    heads, whole = figure.subplots(1, 2, width_ratios=(H, 1.5))
    for axes, part in ((heads, values), (whole, found.by_block.mean(-1)[:, None])):
        limit = max(float(np.abs(part).max()), 1e-9)
        image = axes.imshow(part, cmap=_diverging(), vmin=-limit, vmax=limit, origin="lower", aspect="auto")
        figure.colorbar(image, ax=axes, label="nats" if axes is whole else None)
        axes.set_yticks(range(k), [str(block) for block in found.blocks])
    heads.set(xlabel="query head, direct effect", ylabel="block")
    heads.set_xticks(_ticks(H))
    whole.set_xticks([0], ["block"])
    figure.suptitle("change of log P(truth): red suppresses it")
    return figure


def labelled_grid(
    values: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    caption: str,
    diverging: bool,
) -> Figure:
    """Words in coloured cells, the first row on top; values 0 to 1, or -1 to 1 where they diverge."""
    L, T = len(rows), len(columns)
    figure = Figure(figsize=(1.6 + 0.8 * T, 1.3 + 0.28 * L), layout="constrained")
    axes = figure.subplots()
    axes.imshow(
        values,
        aspect="auto",
        cmap=_diverging("#e27840", "#5fa5d9") if diverging else _from_paper("#efae45"),
        vmin=-1.0 if diverging else 0.0,
        vmax=1.0,
    )
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            axes.text(j, i, _drawn(text) if text else "", ha="center", va="center", fontsize=7)
    axes.set_xticks(range(T), [_drawn(name) for name in columns], rotation=45, ha="right", fontsize=7)
    axes.set_yticks(range(L), rows, fontsize=7)
    axes.set_xlabel(_known(caption).replace("$", r"\$"), fontsize=7)
    axes.tick_params(length=0)
    return figure


def neuron_weights(
    weights: Mapping[int, Floats], chosen: Mapping[int, Sequence[int]], residual: tuple[int, Floats]
) -> Figure:
    """Left, the weight of every neuron, block beside block, the chosen ones marked; right, those of the residual probe.
    Both in standard deviations, on one scale. chosen: block -> indices; residual: (block, [D])."""
    figure = Figure(figsize=(9.2, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    spread = _spread(np.concatenate(list(weights.values())))
    middles, first = list[float](), 0
    for i, (layer, values) in enumerate(weights.items()):
        at, marked = np.arange(first, first + len(values)), np.isin(np.arange(len(values)), chosen.get(layer, ()))
        for some, colour in ((~marked, ("#c9c9d4", "#a9a9b8")[i % 2]), (marked, CLAIM)):
            left.scatter(at[some], values[some] / spread, s=4, color=colour, linewidths=0, rasterized=True)
        middles.append(first + len(values) / 2)
        first += len(values)
    every = -(-len(middles) // MOST_TICKS)
    left.set_xticks(middles[::every], [str(layer) for layer in weights][::every])
    left.set(xlabel="neurons by block, the chosen ones red", ylabel="weight, standard deviations", xlim=(0, first))
    layer, values = residual
    right.scatter(np.arange(len(values)), values / _spread(values), s=4, color=DRIFT, linewidths=0, rasterized=True)
    right.set(xlabel=f"residual stream after block {layer}", xlim=(0, len(values)))
    for axes in (left, right):
        axes.axhline(0, color="#888888", linewidth=0.8)
    left.set_title("probe on SAE features, decoded to neurons")
    right.set_title("residual probe")
    return figure


def _spread(values: Floats) -> float:
    return max(float(values.std()), 1e-30)


def _panels(models: Mapping[str, object], size: tuple[float, float]) -> tuple[Figure, Sequence[Any]]:
    figure = Figure(figsize=(size[0] * len(models), size[1]), layout="constrained")
    return figure, figure.subplots(1, len(models), squeeze=False)[0]


def _heat(axes: Any, values: Any, **scale: Any) -> Any:
    """[L, k] with lens layer 1 at the bottom."""
    image = axes.imshow(values, origin="lower", aspect="auto", **scale)
    axes.set_yticks(_ticks(len(values)), [str(i + 1) for i in _ticks(len(values))])
    return image


def _label_cuts(axes: Any, model: str, tokens: Sequence[str], xlabel: str) -> None:
    axes.set(title=model, xlabel=xlabel, ylabel="layer (the last is the output)")
    axes.set_xticks(range(len(tokens)), [_plain(token) for token in tokens], rotation=45, ha="right")


def _plain(token: str) -> str:
    """A dollar sign would start mathematics; white space would not be seen."""
    return token.strip().replace("$", r"\$") or repr(token)[1:-1]


def _drawn(token: str) -> str:
    """A token cut to a cell."""
    return _plain(_known(token[:MOST_LETTERS]))


def _known(text: str) -> str:
    """What the font lacks is a box."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    lines = (
        "".join(c if font.get_char_index(ord(c)) else "\N{WHITE SQUARE}" for c in line) for line in text.split("\n")
    )
    return "\n".join(lines)


def _legend(figure: Figure, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)


def _ticks(count: int, first: int = 0) -> list[int]:
    return list(range(first, first + count, -(-count // MOST_TICKS)))


def _diverging(low: str = CLAIM, high: str = TRUTH) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("flip", [low, "#fbfaf7", high])


def _from_paper(colour: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shade", ["#fbfaf7", colour])
