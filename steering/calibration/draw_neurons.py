"""Draw neurons: a choice of neurons as numbers and as a picture."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from steering.calibration.choose_neurons import NeuronChoice

DIGITS = 5
"""Of each weight in the file."""


def draw_neurons(choice: NeuronChoice, out: Path) -> list[Path]:
    """neurons.json, with every weight drawn, and neurons.png; returns what was written. Needs matplotlib."""
    from steering.calibration import plots

    out.mkdir(parents=True, exist_ok=True)
    layers = sorted(choice.weights)
    document = {
        **choice.as_json(),
        "weights": {str(layer): _rounded(choice.weights[layer]) for layer in layers},
        "residual_weights": _rounded(choice.residual.weights),
    }
    (out / "neurons.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
    figure = plots.neuron_weights(
        {layer: choice.weights[layer].double().numpy() for layer in layers},
        {layer: [unit.index for unit in choice.neurons if unit.layer == layer] for layer in layers},
        (choice.residual.layer, choice.residual.weights.double().numpy()),
    )
    figure.savefig(out / "neurons.png", dpi=144)
    return [out / "neurons.json", out / "neurons.png"]


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
