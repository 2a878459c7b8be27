"""What a request brings along of its own: corrections without tensors, and spans that nothing acts in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from server.errors import ApiError
from server.schemas.steering import CustomCorrection
from server.serving import Served
from steering.custom import PARAM, ScaledUnits
from steering.gate import SpanKind
from steering.model.markers import markers_of
from steering.pack import Pack
from steering.site import Site

_LAYER = re.compile(r"0|[1-9][0-9]{0,4}")


def with_corrections(pack: Pack | None, corrections: Sequence[CustomCorrection], served: Served) -> Pack:
    """The pack with these after its own, or a pack of these alone."""
    num_layers = served.model.layout.num_layers
    return served.customised(pack, tuple(_scaled(i, one, num_layers) for i, one in enumerate(corrections)))


def _scaled(index: int, correction: CustomCorrection, num_layers: int) -> ScaledUnits:
    component, _, layer = correction.site.partition(".")
    if not _LAYER.fullmatch(layer):
        where = f"{PARAM}.{index}.site"
        message = f"{where}: the layer must be 0..{num_layers - 1} for this model (got {layer!r})."
        raise ApiError("layer_out_of_range", message, where)
    units = correction.groups if correction.neurons is None else correction.neurons
    return ScaledUnits(Site.parse(f"{component}.{layer}"), tuple(units or ()), correction.scale)


def exempt_spans(named: Sequence[SpanKind] | None, served: Served) -> frozenset[SpanKind]:
    """Refused where the model's template marks no such spans: nobody could tell whether there are any."""
    markers = markers_of(served.model.tokenizer)
    marked: dict[SpanKind, bool] = {
        "code": True,
        "tool_calls": bool(markers.tool_calls),
        "reasoning": bool(markers.reasoning),
    }
    for i, kind in enumerate(named or ()):
        if not marked[kind]:
            there = ", ".join(name for name, is_there in marked.items() if is_there)
            message = f"steering.exempt.{i}: the template of this model marks no {kind}; it can exempt {there}."
            raise ApiError("unsupported_parameter", message, f"steering.exempt.{i}")
    return frozenset(named or ())
