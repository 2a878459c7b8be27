"""Corrections, lenses and plans with random contents, for the tiny models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from steering.correction import AnyCorrection, Correction, LogitCorrection, WeightCorrection
from steering.edit import Edit, LayerContrast, LensContrast, Project, Scale, Set, Shift, SparseWeights
from steering.gate import Gate, Phase
from steering.lens import TunedLens
from steering.lens_file import WholeLens
from steering.model.layout import Layout
from steering.model.loading import LanguageModel
from steering.plan import Detector, Plan
from steering.site import Component, Site
from steering.unit import Unit

COMPONENTS: tuple[Component, ...] = ("resid_post", "attn_z", "mlp_act")
KINDS: tuple[type[Edit], ...] = (Set, Scale, Shift, Project)

PROMPT: frozenset[Phase] = frozenset({"prompt"})
COMPLETION: frozenset[Phase] = frozenset({"completion"})
BOTH = PROMPT | COMPLETION
DRIFT = Gate("drift")
LATCH = Gate("drift", latch=True)


def random_edit(kind: type[Edit], layout: Layout, component: Component, seed: int = 0) -> Edit:
    """An edit that clearly moves what it touches: at `attn_z` the heads of one KV group, else some features."""
    W, noise = layout.width(component), torch.Generator().manual_seed(seed)
    mask = torch.rand(W, generator=noise) < 0.3
    if component == "attn_z":
        mask[:] = False
        mask[layout.group_features([seed % layout.num_groups])] = True
    values = torch.randn(W, generator=noise)
    if kind is Set:
        return Set(values, mask)
    if kind is Scale:
        return Scale(torch.where(mask, values * 2, 1.0))
    if kind is Shift:
        return Shift(torch.where(mask, values * 2, 0.0))
    return Project(torch.linalg.qr(torch.randn(W, 1 + seed % 3, generator=noise)).Q.T.contiguous())


def tuned_lens(layout: Layout, layer: int, seed: int = 0) -> TunedLens:
    noise, D = torch.Generator().manual_seed(seed), layout.d_model

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=noise)

    return TunedLens(layer, randn(D, D) * 0.5 * D**-0.5, randn(D) * 0.1)


def whole_lens(model: LanguageModel, *, first: int = 1) -> WholeLens:
    """Another lens at each layer from `first` on."""
    lenses = {layer: tuned_lens(model.layout, layer, seed=layer) for layer in range(first, model.layout.num_layers)}
    return WholeLens(lenses, model.name, model.fingerprint, "noise")


def correction(
    kind: type[Edit],
    layout: Layout,
    site: Site,
    *,
    gate: Gate | None = None,
    strength: float = 1.0,
    seed: int = 0,
) -> Correction:
    edit = random_edit(kind, layout, site.component, seed)
    return Correction(f"{kind.__name__.lower()}-{site}", site, edit, gate or Gate(), strength)


def contrast(plausibility: float = 0.0, *, gate: Gate | None = None, a: float = 1.0) -> LogitCorrection:
    return LogitCorrection(f"contrast-{plausibility}-{a}", LensContrast(plausibility), gate or Gate(), a)


def dola(*bucket: int, plausibility: float = 0.1, gate: Gate | None = None, a: float = 1.0) -> LogitCorrection:
    return LogitCorrection(f"dola-{bucket}-{a}", LayerContrast(bucket, plausibility), gate or Gate(), a)


def sparse_weights(layout: Layout, *, layers: Sequence[int] = (1, 2), seed: int = 0) -> SparseWeights:
    """Two KV groups in the first of the blocks and one in each other, and neurons in all that have them."""
    groups = [Unit("group", layer, (seed + i) % layout.num_groups) for i, layer in enumerate(layers)]
    groups.append(Unit("group", layers[0], (seed + 1) % layout.num_groups))
    neurons = [
        Unit("neuron", layer, (7 * seed + index) % layout.d_mlp)
        for layer in layers
        for index in (0, 3, 5, 40)
        if layout.mlp_outputs[layer] is not None
    ]
    units, noise = tuple(sorted({*groups, *neurons})), torch.Generator().manual_seed(seed)
    deltas = torch.randn(layout.num_deltas(units), layout.d_model, generator=noise) * 1.5 * layout.d_model**-0.5
    return SparseWeights(units, deltas)


def tuned(layout: Layout, *, layers: Sequence[int] = (1, 2), strength: float = 1.0, seed: int = 0) -> WeightCorrection:
    return WeightCorrection(f"tuned-{seed}", sparse_weights(layout, layers=layers, seed=seed), strength=strength)


def steered(
    *parts: AnyCorrection, detector: Detector | None = None, strength: float = 1.0, trace: bool = False
) -> Plan:
    return Plan(
        mode="on",
        strength=strength,
        corrections=tuple(p for p in parts if isinstance(p, Correction)),
        logit_corrections=tuple(p for p in parts if isinstance(p, LogitCorrection)),
        weight_corrections=tuple(p for p in parts if isinstance(p, WeightCorrection)),
        detector=detector,
        trace="tokens" if trace else "off",
    )


def with_threshold(plan: Plan, threshold: float) -> Plan:
    assert plan.detector is not None
    return replace(plan, detector=replace(plan.detector, threshold=threshold))


def separating_threshold(drifts: Sequence[float], share: float = 0.5) -> float:
    """Between two observed drifts, so that about `share` of them lie above; no value lies near it."""
    ordered = sorted(drifts)
    near = max(1, min(len(ordered) - 1, round(len(ordered) * (1 - share))))
    around = range(max(1, near - 1), min(len(ordered), near + 2))
    gap = max(around, key=lambda i: ordered[i] - ordered[i - 1])
    return (ordered[gap] + ordered[gap - 1]) / 2
