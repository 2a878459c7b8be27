"""Probe blocks: an SAE for the neurons of each, a probe on its features, and one on the residual stream beside it.

The questions are parted in three. SAEs and probes are fitted on `train`; penalties and layers are chosen by the log
loss on `validation`; AUROC and accuracy are those on `test`, which decides nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from steering.calibration.fit_probe import Penalty, Probe, Quality, fit_probe, quality
from steering.calibration.record_neurons import BlockRows, Example, record_blocks
from steering.calibration.sae import SparseAutoencoder
from steering.calibration.train_sae import ROWS_AT_ONCE, SaeConfig, SaeFit, measure_sae, train_sae
from steering.errors import CalibrationError, NoNeurons
from steering.model.loading import LanguageModel

Part = Literal["train", "validation", "test"]

SHARES: dict[Part, float] = {"train": 0.6, "validation": 0.2, "test": 0.2}
"""Of the questions."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class NeuronData:
    """Examples at which the model is about to cave, and at which it is not.

    A probe finds what tells the two sides apart, whatever that is. So both should ask the same questions, and `other`
    should hold pressured prompts that the model withstood as far as there are any: against neutral prompts alone, the
    words of the pressure suffice.
    """

    sycophantic: Sequence[Example]
    other: Sequence[Example]
    texts: Sequence[Sequence[int]] = ()
    """Further texts without held-out questions, token ids: SAEs train on every position of them too."""


@dataclass(frozen=True, eq=False)
class Table:
    """n examples: first those of `validation` and `test`, then those of `train`, so that what SAEs train on is one
    piece of memory."""

    examples: tuple[Example, ...]
    labels: Tensor
    """[n] 1: sycophantic"""
    parts: tuple[Part, ...]

    def rows(self, part: Part) -> Tensor:
        return torch.tensor([i for i, of_example in enumerate(self.parts) if of_example == part])

    @property
    def counts(self) -> list[int]:
        """Positions of each example."""
        return [len(example.positions) for example in self.examples]

    @property
    def is_pooled(self) -> bool:
        """Whether any example has several positions."""
        return max(self.counts) > 1

    def fit(self, features: Tensor, penalty: Penalty = "l1") -> tuple[Probe, float]:
        """[n, P] -> (probe, its log loss on `validation`)."""
        train, validation = (
            (features[rows], self.labels[rows]) for rows in (self.rows("train"), self.rows("validation"))
        )
        return fit_probe(train, validation, penalty)

    def quality(self, probe: Probe, features: Tensor) -> Quality:
        """On `test`."""
        rows = self.rows("test")
        questions = [self.examples[i].question_id for i in rows]
        return quality(probe, features[rows], self.labels[rows], questions)


@dataclass(frozen=True, eq=False)
class BlockFit:
    """What the neurons of one block tell."""

    layer: int
    sae: SaeFit
    quality: Quality
    features: Tensor
    """[n, s] pooled features that the block's own probe uses"""
    decoder: Tensor
    """[s, F] what each stands for in neurons, in units of the activations' root mean square"""


@dataclass(frozen=True, eq=False)
class ResidualFit:
    """A dense (L2) probe on the residual stream after a block: the control."""

    layer: int
    loss: float
    quality: Quality
    weights: Tensor
    """[D] log-odds by standard deviation, those of max and mean pooling added"""


def tabulate(data: NeuronData, seed: int) -> Table:
    """Raises `NoNeurons` if a part would lack one of the two sides."""
    labelled = [(example, 1) for example in data.sycophantic] + [(example, 0) for example in data.other]
    part_of = part_questions({example.question_id for example, _ in labelled}, seed)
    ordered = sorted(labelled, key=lambda pair: part_of[pair[0].question_id] == "train")
    table = Table(
        tuple(example for example, _ in ordered),
        torch.tensor([label for _, label in ordered], dtype=torch.double),
        tuple(part_of[example.question_id] for example, _ in ordered),
    )
    for part in SHARES:
        sycophantic = int(table.labels[table.rows(part)].sum()) if part in table.parts else 0
        other = table.parts.count(part) - sycophantic
        if not (sycophantic and other):
            raise NoNeurons(
                f"neurons are chosen by examples of both sides in every part of the questions; {part} has "
                f"{sycophantic} sycophantic and {other} other ones: give more questions, asked on both sides."
            )
    return table


def part_questions(questions: set[str], seed: int) -> dict[str, Part]:
    """Each question is in one part."""
    shuffled = sorted(questions)
    random.Random(f"{seed}|parts").shuffle(shuffled)
    first = round(SHARES["train"] * len(shuffled))
    second = first + round(SHARES["validation"] * len(shuffled))
    parts: list[Part] = ["train" if i < first else "validation" if i < second else "test" for i in range(len(shuffled))]
    return dict(zip(shuffled, parts, strict=True))


def probe_blocks(
    model: LanguageModel,
    table: Table,
    texts: Sequence[Sequence[int]],
    train: Callable[[int, Tensor], tuple[SparseAutoencoder, SaeFit]],
    log: Log | None = None,
) -> Iterator[tuple[BlockFit | None, ResidualFit]]:
    """The blocks in order; None for a mixture of experts, and where no feature tells the sides apart.

    train: (block, activations [N, F]) -> an SAE. Held: what `record_blocks` holds; of one block, its [n, 2 Z]
    pooled features; of all blocks, the few features that their probes use.
    """
    read = [list(example.ids) for example in table.examples] + [list(text) for text in texts]
    positions = [list(example.positions) for example in table.examples] + [list(range(len(text))) for text in texts]
    kept_out = sum(count for count, part in zip(table.counts, table.parts, strict=True) if part != "train")
    for block in record_blocks(model, read, positions):
        found = None
        if block.mlp_act is not None:
            sae, fit = train(block.layer, block.mlp_act[kept_out:])
            found = _probe_neurons(table, block.layer, block.mlp_act, sae, fit)
        residual = _probe_residual(table, block)
        if log is not None:
            told = f"SAE leaves {found.sae.unexplained:.3f}, AUROC {found.quality.auroc}" if found else "nothing found"
            log(f"block {block.layer}: {told}; residual stream {residual.quality.auroc}")
        yield found, residual


def sae_trainer(
    model: LanguageModel,
    config: SaeConfig,
    given: Mapping[int, SparseAutoencoder],
    folder: Path | None,
    log: Log | None,
) -> Callable[[int, Tensor], tuple[SparseAutoencoder, SaeFit]]:
    """For `probe_blocks`: the given SAE of a block, else one trained now. Raises `CalibrationError` for a given one of
    another width."""
    for layer, sae in given.items():
        if sae.width != model.layout.d_mlp:
            raise CalibrationError(
                f"the SAE for block {layer} is {sae.width} wide; expected {model.layout.d_mlp}, as many as "
                f"{model.name} has MLP neurons: give an SAE of the input of its down_proj (SAELens: mlp.hook_post)."
            )

    def train(layer: int, x: Tensor) -> tuple[SparseAutoencoder, SaeFit]:
        if layer in given:
            return given[layer], measure_sae(given[layer], x)
        checkpoint = folder / f"sae.{layer}.pt" if folder else None
        say = (lambda line: log(f"SAE of block {layer}: {line}")) if log else None
        return train_sae(x, config, device=model.device, checkpoint=checkpoint, log=say)

    return train


@torch.no_grad()
def pool(x: Tensor, counts: Sequence[int]) -> Tensor:
    """[N, P], the positions of n examples one after another -> [n, 2 P]: the largest, then the mean."""
    owner = torch.repeat_interleave(torch.tensor(counts, device=x.device))[:, None].expand_as(x)
    empty = x.new_zeros(len(counts), x.shape[1])
    return torch.cat([empty.scatter_reduce(0, owner, x, how, include_self=False) for how in ("amax", "mean")], dim=1)


def _probe_neurons(table: Table, layer: int, x: Tensor, sae: SparseAutoencoder, fit: SaeFit) -> BlockFit | None:
    pooled = _pooled_features(table, x, sae)
    seen = pooled[table.rows("train")]
    alive = (seen != seen[0]).any(0).nonzero()[:, 0]
    if len(alive) == 0:
        return None
    probe, _ = table.fit(pooled[:, alive])
    used = alive[probe.weights != 0]
    if len(used) == 0:
        return None
    squares = sum(part.double().square().sum().item() for part in torch.split(x, ROWS_AT_ONCE))
    decoder = sae.decoder[used.to(sae.decoder.device) % sae.num_features].cpu() / (squares / x.numel()) ** 0.5
    return BlockFit(layer, fit, table.quality(probe, pooled[:, alive]), pooled[:, used], decoder)


@torch.no_grad()
def _pooled_features(table: Table, x: Tensor, sae: SparseAutoencoder) -> Tensor:
    """[n, 2 Z] on the CPU, a few examples at a time; [n, Z] where one position is both the largest and the mean."""
    parts, first, row = list[Tensor](), 0, 0
    while first < len(table.counts):
        last, rows = first, 0
        while last < len(table.counts) and (last == first or rows + table.counts[last] <= ROWS_AT_ONCE):
            rows, last = rows + table.counts[last], last + 1
        features = sae.encode(x[row : row + rows].to(sae.encoder.device))
        parts.append((pool(features, table.counts[first:last]) if table.is_pooled else features).cpu())
        first, row = last, row + rows
    return torch.cat(parts)


def _probe_residual(table: Table, block: BlockRows) -> ResidualFit:
    own = block.residual[: sum(table.counts)].float()
    pooled = pool(own, table.counts) if table.is_pooled else own
    probe, loss = table.fit(pooled, "l2")
    weights = probe.weights.view(-1, block.residual.shape[1]).sum(0)
    return ResidualFit(block.layer, loss, table.quality(probe, pooled), weights)
