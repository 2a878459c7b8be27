"""Agreement: how far two ways of computing the same numbers lie apart, and how far they may."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

Section = Literal["taps", "lens", "edits", "generation"]

MIN_EFFECT = 4.0
"""An edit must move the logits by this many tolerances: agreement about nothing proves nothing."""


@dataclass(frozen=True)
class Tolerance:
    """How far apart the two sides may lie in one dtype: kernels differ, and rounding grows with depth."""

    relative: float
    """Norm of the difference over the spread (norm about the mean) of the reference, per token."""
    share: float
    """Of the tokens that must lie within: in 16 bits one token may tip, as when its experts are a tie."""
    tie: float
    """Nats: two tokens whose logits lie closer are a tie, and either may be drawn."""


TOLERANCES = {
    torch.float32: Tolerance(1e-4, 1.0, 1e-3),
    torch.float16: Tolerance(2e-2, 0.5, 0.05),
    torch.bfloat16: Tolerance(1e-1, 0.5, 0.25),
}


def tolerance_of(dtype: torch.dtype, quantized: str | None) -> Tolerance:
    """dtype of activations. The CPU kernels of int4 compute in bfloat16, whatever goes in."""
    return TOLERANCES[torch.bfloat16 if quantized == "int4" else dtype]


@dataclass(frozen=True)
class Difference:
    """Of two tensors, one vector per token."""

    absolute: float
    """The largest."""
    relative: float
    """Norm of the difference / spread of the reference: the largest of the best share of the tokens."""


@dataclass(frozen=True)
class Check:
    """One comparison."""

    section: Section
    what: str
    """A site, a kind of lens, an edit at a site, a prompt."""
    layer: int | None
    """Block of a site, layer of a lens; None where there is none."""
    difference: Difference | None
    """None: tokens were compared, or nothing came out to compare."""
    passed: bool
    note: str = ""


def difference(ours: Tensor, reference: Tensor, share: float = 1.0) -> Difference:
    """Of two [N, W]; infinite where shapes differ or a number is not finite."""
    if ours.shape != reference.shape:
        return Difference(math.inf, math.inf)
    ours, reference = ours.cpu().double(), reference.cpu().double()
    gap = ours - reference
    if not gap.isfinite().all():
        return Difference(math.inf, math.inf)
    spread = (reference - reference.mean(-1, keepdim=True)).norm(dim=-1)
    relative = (gap.norm(dim=-1) / spread.clamp_min(1e-30)).quantile(share, interpolation="higher")
    return Difference(gap.abs().max().item(), relative.item())


def agree(section: Section, what: str, layer: int | None, pair: tuple[Tensor, Tensor], tolerance: Tolerance) -> Check:
    """Ours against the reference."""
    found = difference(*pair, tolerance.share)
    shapes = [list(tensor.shape) for tensor in pair]
    note = "" if shapes[0] == shapes[1] else f"shape {shapes[0]}, expected {shapes[1]}"
    return Check(section, what, layer, found, found.relative <= tolerance.relative, note)


def agree_on_edit(what: str, layer: int, pair: tuple[Tensor, Tensor], unedited: Tensor, tolerance: Tolerance) -> Check:
    """Edited logits, ours against the reference, which must lie well off the `unedited` ones."""
    found, effect = difference(*pair), difference(pair[1], unedited).relative
    note = f"effect {effect:.2g}"
    if enough := is_effect(effect, tolerance):
        return Check("edits", what, layer, found, found.relative <= tolerance.relative, note)
    return Check("edits", what, layer, found, enough, f"{note}: too little to prove anything")


def is_effect(effect: float, tolerance: Tolerance) -> bool:
    """Whether an edit moved the logits by more than rounding could."""
    return effect >= MIN_EFFECT * tolerance.relative


def agree_on_tokens(
    what: str, ours: Sequence[int], reference: Sequence[int], logits: Tensor, tolerance: Tolerance
) -> Check:
    """Greedy answers. logits: [n, V] of the reference, which drew reference[i] from row i. After a tie the two
    sides are different texts, so the comparison ends there."""
    at = next((i for i, (a, b) in enumerate(zip(ours, reference, strict=False)) if a != b), None)
    if at is None:
        same = len(ours) == len(reference)
        note = f"{len(ours)} tokens" + ("" if same else f", the reference has {len(reference)}")
        return Check("generation", what, None, None, same and len(ours) > 0, note)
    gap = (logits[at, reference[at]] - logits[at, ours[at]]).item()
    tied = abs(gap) <= tolerance.tie
    note = f"token {at} is {ours[at]}, {'tied with' if tied else 'expected'} {reference[at]} ({gap:.2g} nats apart)"
    return Check("generation", what, None, None, tied, note)


@dataclass(frozen=True)
class Summary:
    """All checks of one kind, over the layers."""

    section: Section
    what: str
    worst: Check
    """The first that failed: what lies behind it may only have inherited the fault. Else the largest difference."""
    failed_layers: tuple[int, ...]
    count: int


def summarise(checks: Iterable[Check]) -> list[Summary]:
    """One summary per section and kind, in the order of the checks; those of one kind stand together."""
    summaries = []
    for (section, what), group in groupby(checks, key=lambda check: (check.section, check.what)):
        members = list(group)
        failed = [check for check in members if not check.passed]
        worst = failed[0] if failed else max(members, key=lambda c: c.difference.relative if c.difference else 0.0)
        layers = tuple(check.layer for check in failed if check.layer is not None)
        summaries.append(Summary(section, what, worst, layers, len(members)))
    return summaries
