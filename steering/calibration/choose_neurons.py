"""Choose neurons: the few per cent of all MLP neurons that tell whether the model is about to cave.

After O'Brien et al. 2026, arXiv 2601.18939. Blocks are grown greedily, each set scored by a joint probe on the features
that the blocks' own probes use. Its weights go back through the SAEs' decoders: a neuron's weight is what one standard
deviation of each feature writes into it, times the log-odds that it is worth, in units of the block's root mean square,
so that blocks can be compared. The largest are taken over all blocks together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steering.calibration.choose import grow
from steering.calibration.fit_probe import Probe, Quality
from steering.calibration.probe_blocks import (
    BlockFit,
    NeuronData,
    ResidualFit,
    Table,
    probe_blocks,
    sae_trainer,
    tabulate,
)
from steering.calibration.sae import SparseAutoencoder
from steering.calibration.train_sae import SaeConfig, SaeFit
from steering.errors import NoNeurons
from steering.evaluation.stats import Interval
from steering.model.loading import LanguageModel
from steering.unit import Unit

PAPER_BLOCKS = (5, 6, 7, 8, 11, 13, 15, 19, 24)
"""O'Brien et al.'s list for Gemma-2."""
LATE_SHARE = 0.3
"""Their other one: the last blocks."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class NeuronConfig:
    """How many neurons, and from where."""

    share: float = 0.03
    """Of all MLP neurons of the model."""
    from_layer: int = 0
    """Lowest block to choose from: what is corrected behind a drift gate must lie above the layer its lens reads."""
    most_blocks: int = 9
    """Blocks to grow to."""
    tolerance: float = 0.01
    """Nats of log loss on `validation` by which a smaller set of blocks may fall short of the best."""
    sae: SaeConfig = field(default_factory=SaeConfig)
    seed: int = 0
    """Parts the questions."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")
        if self.from_layer < 0 or self.most_blocks < 1 or self.tolerance < 0:
            raise ValueError("from_layer and tolerance must be at least 0, most_blocks at least 1")


@dataclass(frozen=True, eq=False)
class NeuronChoice:
    """Which neurons, and why these."""

    neurons: tuple[Unit, ...]
    """Ascending."""
    layers: tuple[int, ...]
    """The blocks they were chosen from, in the order in which they were grown."""
    quality: Quality
    """Of the joint probe over these blocks."""
    weights: Mapping[int, Tensor]
    """block -> [F] weight of each neuron, positive if it is more active before caving. The neurons are those of largest
    absolute weight."""
    blocks: Mapping[int, tuple[SaeFit, Quality]]
    """Of every block with a feature that tells the sides apart: its SAE, and its own probe"""
    sets: Mapping[str, Quality | None]
    """Joint probes over other sets of blocks: all, the paper's two; None where no feature of theirs tells anything"""
    residual: ResidualFit
    """The control, after the block where its `validation` loss is least"""
    residuals: Mapping[int, Quality]
    """The control after every block"""
    gap: float
    """By how much the joint probe misses its optimality conditions at most"""
    num_questions: int
    num_neurons: int
    """MLP neurons of the model."""

    @property
    def counts(self) -> dict[int, int]:
        """block -> how many neurons."""
        return dict(sorted(Counter(unit.layer for unit in self.neurons).items()))

    def as_json(self) -> dict[str, Any]:
        """Evidence; everything but the weights."""
        return {
            "neurons": {
                str(layer): [unit.index for unit in self.neurons if unit.layer == layer] for layer in self.counts
            },
            "num_neurons": self.num_neurons,
            "share": len(self.neurons) / self.num_neurons,
            "num_questions": self.num_questions,
            "layers": list(self.layers),
            "probe": {"gap": self.gap, **_quality_json(self.quality)},
            "blocks": {
                str(layer): {"sae": vars(sae), **_quality_json(own)} for layer, (sae, own) in self.blocks.items()
            },
            "sets": {name: own and _quality_json(own) for name, own in self.sets.items()},
            "residual": {
                "layer": self.residual.layer,
                "blocks": {str(layer): _quality_json(own) for layer, own in self.residuals.items()},
            },
            "kurtosis": {
                "neurons": kurtosis(torch.cat([self.weights[layer] for layer in sorted(self.weights)])),
                "residual": kurtosis(self.residual.weights),
            },
        }


def choose_neurons(
    model: LanguageModel,
    data: NeuronData,
    config: NeuronConfig,
    *,
    saes: Mapping[int, SparseAutoencoder] | None = None,
    checkpoints: Path | None = None,
    log: Log | None = None,
) -> NeuronChoice:
    """saes: by block, those that need no training. checkpoints: a folder from which an interrupted run goes on, and in
    which a second one, for another `from_layer` say, finds its SAEs trained.

    Raises `NoNeurons` where examples are too few, or nothing tells the sides apart.
    """
    num_neurons = model.layout.d_mlp * sum(linear is not None for linear in model.layout.mlp_outputs)
    if num_neurons == 0:
        raise NoNeurons(f"{model.name} has no MLP neurons to choose from: all its blocks are mixtures of experts.")
    table = tabulate(data, config.seed)
    train = sae_trainer(model, config.sae, saes or {}, checkpoints, log)
    found, residuals = dict[int, BlockFit](), list[ResidualFit]()
    for block, residual in probe_blocks(model, table, data.texts, train, log):
        residuals.append(residual)
        if block is not None:
            found[block.layer] = block
    layers, probe = _grow_blocks(table, found, config)
    weights = decode(probe, [found[layer] for layer in layers])
    choice = NeuronChoice(
        neurons=largest(weights, max(1, round(config.share * num_neurons))),
        layers=layers,
        quality=table.quality(probe, _features(found, layers)),
        weights=weights,
        blocks={layer: (block.sae, block.quality) for layer, block in found.items()},
        sets={name: _joint_quality(table, found, some) for name, some in _other_sets(model.layout.num_layers).items()},
        residual=min(residuals, key=lambda fit: fit.loss),
        residuals={fit.layer: fit.quality for fit in residuals},
        gap=probe.gap,
        num_questions=len({example.question_id for example in table.examples}),
        num_neurons=num_neurons,
    )
    if log is not None:
        log(f"blocks {layers}: AUROC {choice.quality.auroc}; {len(choice.neurons)} neurons, by block {choice.counts}")
    return choice


def decode(probe: Probe, blocks: Sequence[BlockFit]) -> dict[int, Tensor]:
    """block -> [F] weight of each neuron. probe: joint, over the features of these blocks in this order."""
    written = torch.split((probe.weights * probe.scale).float(), [block.features.shape[1] for block in blocks])
    return {block.layer: by_feature @ block.decoder.float() for by_feature, block in zip(written, blocks, strict=True)}


def largest(weights: Mapping[int, Tensor], count: int) -> tuple[Unit, ...]:
    """The `count` neurons of largest absolute weight, over all blocks together; all, if there are fewer."""
    layers = sorted(weights)
    size = torch.stack([weights[layer].abs() for layer in layers])
    order = size.flatten().argsort(descending=True, stable=True)[:count]
    return tuple(sorted(Unit("neuron", layers[int(i) // size.shape[1]], int(i) % size.shape[1]) for i in order))


def kurtosis(weights: Tensor) -> float | None:
    """3 for a normal distribution; the more, the more a few weights stand out. None where all are equal."""
    spread = weights.double() - weights.double().mean()
    variance = spread.square().mean().item()
    return spread.pow(4).mean().item() / variance**2 if variance else None


def _grow_blocks(table: Table, found: Mapping[int, BlockFit], config: NeuronConfig) -> tuple[tuple[int, ...], Probe]:
    candidates = [layer for layer in found if layer >= config.from_layer]
    if not candidates:
        raise NoNeurons(
            f"no feature of a block from {config.from_layer} on tells sycophantic examples from others: there are no "
            "neurons to choose. Lower from_layer, or give more examples."
        )

    def scores(sets: Sequence[tuple[int, ...]]) -> list[float]:
        return [-table.fit(_features(found, layers))[1] for layers in sets]

    grown = grow(candidates, scores, config.most_blocks)
    best = max(value for _, value in grown)
    layers = next(layers for layers, value in grown if value >= best - config.tolerance)
    return layers, table.fit(_features(found, layers))[0]


def _features(found: Mapping[int, BlockFit], layers: Sequence[int]) -> Tensor:
    return torch.cat([found[layer].features for layer in layers], dim=1)


def _other_sets(num_layers: int) -> dict[str, list[int]]:
    late = math.ceil(LATE_SHARE * num_layers)
    return {
        "all": list(range(num_layers)),
        "listed by O'Brien et al.": list(PAPER_BLOCKS),
        "last 30 %": list(range(num_layers - late, num_layers)),
    }


def _joint_quality(table: Table, found: Mapping[int, BlockFit], layers: Sequence[int]) -> Quality | None:
    there = [layer for layer in layers if layer in found]
    if not there:
        return None
    features = _features(found, there)
    return table.quality(table.fit(features)[0], features)


def _quality_json(own: Quality) -> dict[str, list[float]]:
    return {name: _interval_json(interval) for name, interval in vars(own).items()}


def _interval_json(interval: Interval) -> list[float]:
    return [round(value, 4) for value in (interval.estimate, interval.low, interval.high)]
