"""What is told about a pack, as JSON: by the command line and over HTTP alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steering.errors import PackError

if TYPE_CHECKING:
    from steering.correction import AnyCorrection
    from steering.model.layout import Layout
    from steering.pack import Pack
    from steering.plan import Detector
    from steering.unit import Unit


def summary(name: str, entry: Pack | PackError) -> dict[str, Any]:
    """What a list says of one pack; of a broken one, why."""
    if isinstance(entry, PackError):
        return {"name": name, "broken": str(entry)}
    return {
        "name": name,
        "digest": entry.digest,
        "description": entry.description,
        "model": entry.model_name,
        "fingerprint": entry.fingerprint,
        "num_corrections": len(entry.all_corrections),
        "observe_only": entry.observe_only,
        "detector": entry.detector and _detector(entry.detector),
        "max_strength": entry.max_strength,
    }


def details(pack: Pack, layout: Layout | None = None) -> dict[str, Any]:
    """All in a pack but its tensors and its card. layout: its model's, to name the units that are corrected."""
    corrections = [_correction(correction, layout) for correction in pack.all_corrections]
    told = {"corrections": corrections, "evidence": pack.evidence, "created": pack.created}
    return {**summary(pack.name, pack), **told}


def _detector(detector: Detector) -> dict[str, Any]:
    return {
        "lens": type(detector.lens).__name__,
        "layer": detector.lens.layer,
        "threshold": detector.threshold,
        "num_candidates": detector.num_candidates,
    }


def _correction(correction: AnyCorrection, layout: Layout | None) -> dict[str, Any]:
    tuned = getattr(correction.edit, "units", None)
    units = tuned or _units(correction, layout)
    return {
        "name": correction.name,
        "site": str(getattr(correction, "site", "weights" if tuned else "logits")),
        "edit": type(correction.edit).__name__,
        "gate": f"{correction.gate.kind}, latched" if correction.gate.latch else correction.gate.kind,
        "phases": " and ".join(sorted(correction.gate.phases)),
        "strength": correction.strength,
        **({"units": [str(unit) for unit in units]} if units else {}),
    }


def _units(correction: AnyCorrection, layout: Layout | None) -> Sequence[Unit]:
    """What a correction of activations touches, where the model is there to tell."""
    site, features = getattr(correction, "site", None), getattr(correction.edit, "features", None)
    return [] if layout is None or site is None or features is None else layout.units_at(site, features)
