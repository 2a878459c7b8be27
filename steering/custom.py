"""Custom corrections: what a request can say without tensors, units of a site and what they are multiplied by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from steering.correction import Correction
from steering.edit import Scale
from steering.errors import InvalidRequest, LayerOutOfRange
from steering.model.loading import LanguageModel
from steering.pack import Pack
from steering.site import Site

NAME = "custom"
"""Of what runs where no profile is named."""
PARAM = "steering.corrections"


@dataclass(frozen=True)
class ScaledUnits:
    """KV groups at `attn_z` (all query heads of each), or neurons at `mlp_act`."""

    site: Site
    units: tuple[int, ...]
    factor: float
    """Of their activations: 0 silences them, 1 leaves them alone."""


def customised(pack: Pack | None, scaled: Sequence[ScaledUnits], *, model: LanguageModel) -> Pack:
    """The pack with these corrections after its own, or a pack of these alone. They act always, in the completion, as
    far as the request says nothing else. Raises `InvalidRequest`, with the range where a unit is not the model's."""
    factors = _factors(scaled, model, lowest=0 if pack is None or pack.detector is None else pack.detector.lens.layer)
    base = pack or Pack(NAME, "What a request asked for.", model.name, model.fingerprint)
    prefix = NAME
    while any(correction.name.startswith(f"{prefix}.") for correction in base.all_corrections):
        prefix += "-"
    own = [
        Correction(f"{prefix}.{site}", site, Scale(factor.to(model.device, model.dtype)))
        for site, factor in factors.items()
    ]
    return replace(base, corrections=(*base.corrections, *own), customised=True)


def _factors(scaled: Sequence[ScaledUnits], model: LanguageModel, *, lowest: int) -> dict[Site, torch.Tensor]:
    """Site -> [W] float32. Deltas of different units at one site are those of one edit."""
    layout, factors, named = model.layout, dict[Site, torch.Tensor](), dict[Site, set[int]]()
    for i, part in enumerate(scaled):
        _check_layer(part.site, f"{PARAM}.{i}.site", model, lowest)
        groups = part.site.component == "attn_z"
        where = f"{PARAM}.{i}.{'groups' if groups else 'neurons'}"
        _check_units(part.units, where, layout.num_groups if groups else layout.d_mlp)
        if again := named.setdefault(part.site, set()).intersection(part.units):
            raise InvalidRequest(f"{where}: {part.site} has {min(again)} in an entry before.", where)
        named[part.site].update(part.units)
        factor = factors.setdefault(part.site, torch.ones(layout.width(part.site.component)))
        factor[layout.group_features(part.units) if groups else list(part.units)] = part.factor
    return factors


def _check_layer(site: Site, where: str, model: LanguageModel, lowest: int) -> None:
    try:
        model.layout.check_site(site)
    except LayerOutOfRange as error:
        raise LayerOutOfRange(f"{where}: {error}", where) from error
    if site.layer < lowest:
        last = model.layout.num_layers - 1
        message = f"{where}: the profile reads layer {lowest}, and what it reads must stay as it is"
        raise LayerOutOfRange(f"{message}: layers {lowest}..{last} can be corrected under it ({site}).", where)


def _check_units(units: Sequence[int], where: str, count: int) -> None:
    if len(set(units)) < len(units):
        raise InvalidRequest(f"{where} must name each once.", where)
    for unit in units:
        if not 0 <= unit < count:
            raise LayerOutOfRange(f"{where}: {unit} is out of range 0..{count - 1} for this model.", where)
