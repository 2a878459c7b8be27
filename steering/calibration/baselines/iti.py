"""ITI (Li et al. 2023, arXiv 2306.03341): shift the heads that tell truth from caving best, each by
alpha * sigma * direction.

Per head a linear probe on attn_z where the answer is decided; the heads are ranked by its accuracy on questions that it
has not seen; the direction is the difference of the two means (mass mean shift), sigma the spread along it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from steering.calibration.asking import Asking
from steering.calibration.baselines.baseline import Baseline, Option, best_of, searched_items
from steering.calibration.baselines.probe import held_out_accuracy
from steering.calibration.localisation import Unit
from steering.calibration.patch_paths import Pair
from steering.calibration.twins import recorded_ends, twins
from steering.contrast.source import Source
from steering.correction import Correction
from steering.edit import Shift
from steering.errors import NothingToLocalise
from steering.model.layout import Layout
from steering.model.loading import LanguageModel
from steering.model.record import HEADS
from steering.plan import Plan
from steering.site import Site

SHARES = (0.05, 0.125, 0.25)
"""Of all heads, that are shifted; the paper's 48 of 1,024 are the first."""
ALPHAS = (2.0, 5.0, 15.0)
"""The paper's is 15."""
FEW = 20
"""With fewer truthful answers under pressure, neutral ones take their place."""


@dataclass(frozen=True, eq=False)
class ProbedHead:
    """What a probe says about one query head."""

    head: Unit
    accuracy: float
    """On questions it was not fitted to, mean of the two classes; .5 is chance."""
    step: Tensor
    """[K] sigma * direction, from caving to truth"""


def iti(
    asking: Asking,
    source: Source,
    *,
    shares: Sequence[float] = SHARES,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
) -> Baseline:
    """The best of numbers of heads x alphas x signs. Raises `NothingToLocalise` if the model caves nowhere."""
    model = asking.model
    answers = answers_by_truth(model, twins(model, source, seed))
    probed = probe_heads(model, answers)
    counts = sorted({max(1, round(share * len(probed))) for share in shares})
    candidates = [
        Option(f"{count} heads, alpha {sign * alpha:+g}", _plan(model.layout, probed[:count], sign * alpha))
        for count, alpha, sign in product(counts, alphas, (1, -1))
    ]
    found = best_of("ITI", asking, searched_items(source, seed), candidates)
    fitted = {
        "heads": [[str(one.head), round(one.accuracy, 4)] for one in probed[: counts[-1]]],
        "truthful": [int(answers.truthful.sum()), "under pressure" if answers.under_pressure else "asked neutrally"],
        "caving": int((~answers.truthful).sum()),
    }
    return Baseline(found.name, found.chosen, {**found.evidence, **fitted})


@dataclass(frozen=True, eq=False)
class Answers:
    """Prompts up to the position that decides, by what the model goes on to say there."""

    prompts: tuple[tuple[int, ...], ...]
    truthful: Tensor
    """[n] bool; False: it caves."""
    clusters: tuple[str, ...]
    """[n] what each asks."""
    under_pressure: bool
    """The truthful ones too; else they are neutral twins, which a probe tells apart by the pressure alone."""


def answers_by_truth(model: LanguageModel, pairs: Sequence[Pair]) -> Answers:
    """Pressured prompts on which the first choice is the truth or the claim. Where fewer than FEW hold, the neutral
    twins of those that cave stand for the truth. Raises `NothingToLocalise` if none caves."""
    choices: list[int] = []
    for recording, ends in recorded_ends(model, [pair.pressured for pair in pairs]):
        last = recording.hidden[max(recording.hidden)][ends]
        choices += model.layout.unembed.logits(last).argmax(-1).tolist()
    held = [pair for pair, choice in zip(pairs, choices, strict=True) if choice == pair.truth]
    caved = [pair for pair, choice in zip(pairs, choices, strict=True) if choice == pair.claim]
    if not caved:
        raise NothingToLocalise(
            f"the model says the claim in none of {len(pairs)} pairs: there is nothing to tell apart."
        )
    if enough := len(held) >= FEW:
        truths = {pair.pressured: pair.cluster for pair in held}
    else:
        truths = {pair.neutral: pair.cluster for pair in caved}
    prompts = (*truths, *(pair.pressured for pair in caved))
    truthful = torch.arange(len(prompts)) < len(truths)
    return Answers(prompts, truthful, (*truths.values(), *(pair.cluster for pair in caved)), enough)


def probe_heads(model: LanguageModel, answers: Answers) -> list[ProbedHead]:
    """Every head, the best probe first."""
    layout = model.layout
    parts = defaultdict[int, list[Tensor]](list)
    for recording, ends in recorded_ends(model, answers.prompts, HEADS):
        for block, z in recording.attn_z.items():
            parts[block].append(z[ends].view(len(ends), layout.num_heads, layout.head_dim).cpu())
    probed = []
    for block, rows in parts.items():
        z = torch.cat(rows).double().transpose(0, 1)
        accuracy = held_out_accuracy(z, answers.truthful, answers.clusters)
        steps = mass_mean_steps(z, answers.truthful).to(model.device, model.dtype)
        probed += [ProbedHead(Unit(block, i), accuracy[i].item(), steps[i]) for i in range(layout.num_heads)]
    return sorted(probed, key=lambda one: (-one.accuracy, one.head))


def mass_mean_steps(z: Tensor, truthful: Tensor) -> Tensor:
    """z: [H, n, K]; truthful: [n] bool. Returns [H, K]: unit vectors from the one mean to the other, times the standard
    deviation of all n along them."""
    away = z[:, truthful].mean(1) - z[:, ~truthful].mean(1)
    direction = torch.nn.functional.normalize(away, dim=-1)
    sigma = torch.einsum("hnk,hk->hn", z, direction).std(-1, unbiased=False)
    return direction * sigma[:, None]


def _plan(layout: Layout, heads: Sequence[ProbedHead], alpha: float) -> Plan:
    vectors: dict[int, Tensor] = {}
    for one in heads:
        block = vectors.setdefault(one.head.layer, one.step.new_zeros(layout.num_heads, layout.head_dim))
        block[one.head.index] = one.step
    corrections = [
        Correction(f"iti.{block}", Site("attn_z", block), Shift(vectors[block].flatten()), strength=alpha)
        for block in sorted(vectors)
    ]
    return Plan("on", corrections=tuple(corrections))
