"""`pack.json`: the document that describes a pack, to and from corrections and detector. Nothing unknown passes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from steering.correction import Correction, LogitCorrection
from steering.edit import Edit, LensContrast, Project, Scale, Set, Shift
from steering.errors import LayerOutOfRange, PackCorrupt
from steering.gate import Gate
from steering.lens import Lens, LogitLens, TunedLens
from steering.model.loading import LanguageModel
from steering.plan import Detector
from steering.site import Site
from steering.tensor_file import unique_keys

FORMAT = "unsway.pack/1"

_EDITS: dict[str, type[Set | Scale | Shift | Project]] = {
    "set": Set,
    "scale": Scale,
    "shift": Shift,
    "project": Project,
}
_LENSES: dict[str, type[LogitLens | TunedLens]] = {"logit": LogitLens, "tuned": TunedLens}
_LOGITS = "logits"
_NUMBER = (int, float)
_Types = Mapping[str, type | tuple[type, ...]]

_PACK: _Types = {
    "format": str,
    "name": str,
    "description": str,
    "model": dict,
    "files": dict,
    "detector": (dict, NoneType),
    "corrections": list,
    "max_strength": _NUMBER,
    "evidence": dict,
    "created": dict,
}
_CORRECTION: _Types = {"name": str, "site": str, "edit": dict, "gate": dict, "strength": _NUMBER}


def digest_of(document: Mapping[str, object]) -> str:
    """sha256 of the canonical form: sorted keys, no spaces, ASCII. It covers the digests of the other files."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def dump_document(document: Mapping[str, object]) -> bytes:
    """For people: indented, and sealed with its own digest."""
    sealed = {**document, "digest": digest_of(document)}
    return (json.dumps(sealed, indent=2, allow_nan=False) + "\n").encode()


def parse_document(raw: bytes) -> tuple[dict[str, Any], str]:
    """(document, digest) after all checks that need neither model nor tensors. Raises `PackCorrupt`."""
    try:
        document = json.loads(raw, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise PackCorrupt(f"pack.json is not valid JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        raise PackCorrupt(f"pack.json has format {str(found)[:40]!r}; this version reads {FORMAT!r}.")
    stated = document.pop("digest", None)
    read_fields(document, "pack.json", _PACK)
    digest = digest_of(document)
    if stated != digest:
        raise PackCorrupt("pack.json does not match its digest: it was damaged or edited.")
    return document, digest


def read_fields(value: object, where: str, types: _Types) -> dict[str, Any]:
    """`value` as an object with exactly the keys of `types`, each of its type and finite. Raises `PackCorrupt`."""
    if not isinstance(value, dict):
        raise PackCorrupt(f"{where} must be an object.")
    for key in sorted(value.keys() ^ types.keys()):
        raise PackCorrupt(f"{where}: key {key[:40]!r} is {'unknown' if key in value else 'missing'}.")
    for key, kind in types.items():
        item = value[key]
        if not isinstance(item, kind) or (isinstance(item, bool) and kind is not bool):
            raise PackCorrupt(f"{where}.{key} has the wrong type ({type(item).__name__}).")
        if isinstance(item, _NUMBER) and not (abs(item) < 2**53 and math.isfinite(item)):
            raise PackCorrupt(f"{where}.{key} is not a finite number.")
    return value


# Concepts to JSON and tensors


def write_detector(detector: Detector, tensors: dict[str, Tensor]) -> dict[str, object]:
    lens = detector.lens
    parts = _store(lens, "lens", tensors)
    return {
        "lens": {"kind": _kind(_LENSES, lens), "layer": lens.layer, "tensors": parts},
        "threshold": detector.threshold,
        "num_candidates": detector.num_candidates,
    }


def write_corrections(
    corrections: Iterable[Correction | LogitCorrection], tensors: dict[str, Tensor]
) -> list[dict[str, object]]:
    """Adds the tensors of each to `tensors`, under the names its entry states."""
    return [_write_correction(c, f"corrections.{i}", tensors) for i, c in enumerate(corrections)]


def _write_correction(
    correction: Correction | LogitCorrection, prefix: str, tensors: dict[str, Tensor]
) -> dict[str, object]:
    edit, gate = correction.edit, correction.gate
    if isinstance(edit, LensContrast):
        body: dict[str, object] = {"kind": "lens_contrast", "plausibility": edit.plausibility}
    else:
        body = {"kind": _kind(_EDITS, edit), "tensors": _store(edit, prefix, tensors)}
    return {
        "name": correction.name,
        "site": str(correction.site) if isinstance(correction, Correction) else _LOGITS,
        "edit": body,
        "gate": {"kind": gate.kind, "phases": sorted(gate.phases), "latch": gate.latch},
        "strength": correction.strength,
    }


def _kind(kinds: Mapping[str, type], value: object) -> str:
    return next(kind for kind, cls in kinds.items() if type(value) is cls)


def _tensor_fields(cls: type) -> list[str]:
    return [f.name for f in fields(cls) if f.type == "Tensor"]


def _store(part: Edit | Lens, prefix: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    names = {key: f"{prefix}.{key}" for key in _tensor_fields(type(part))}
    tensors.update({name: getattr(part, key) for key, name in names.items()})
    return names


# JSON and tensors to concepts


@dataclass
class PackReader:
    """Builds a pack's parts for one model. Every fault raises `PackCorrupt`."""

    model: LanguageModel
    tensors: Mapping[str, Tensor]
    used: set[str] = field(default_factory=set)

    def finish(self) -> None:
        """To be called last: no tensor may be left over."""
        if unused := sorted(self.tensors.keys() - self.used):
            raise PackCorrupt(f"tensor {unused[0]} is used by nothing in pack.json.")

    def detector(self, value: object) -> Detector:
        spec = read_fields(value, "detector", {"lens": dict, "threshold": _NUMBER, "num_candidates": int})
        return Detector(self._lens(spec["lens"]), float(spec["threshold"]), spec["num_candidates"])

    def correction(self, value: object, where: str) -> Correction | LogitCorrection:
        spec = read_fields(value, where, _CORRECTION)
        gate, strength = self._gate(spec["gate"], f"{where}.gate"), float(spec["strength"])
        if spec["site"] == _LOGITS:
            edit = read_fields(spec["edit"], f"{where}.edit", {"kind": str, "plausibility": _NUMBER})
            if edit["kind"] != "lens_contrast":
                raise PackCorrupt(f"{where}.edit: at the logits only lens_contrast acts.")
            return LogitCorrection(spec["name"], LensContrast(float(edit["plausibility"])), gate, strength)
        try:
            site = Site.parse(spec["site"])
            self.model.layout.check_site(site)
        except (ValueError, LayerOutOfRange) as error:
            raise PackCorrupt(f"{where}.site: {error}") from error
        width = self.model.layout.width(site.component)
        return Correction(spec["name"], site, self._edit(spec["edit"], f"{where}.edit", width), gate, strength)

    def _gate(self, value: object, where: str) -> Gate:
        spec = read_fields(value, where, {"kind": str, "phases": list, "latch": bool})
        if spec["kind"] not in ("always", "drift") or not all(p in ("prompt", "completion") for p in spec["phases"]):
            raise PackCorrupt(f"{where} is neither always nor drift, or names an unknown phase.")
        return Gate(spec["kind"], frozenset(spec["phases"]), spec["latch"])

    def _lens(self, value: object) -> Lens:
        spec = read_fields(value, "detector.lens", {"kind": str, "layer": int, "tensors": dict})
        layers, width = self.model.layout.num_layers, self.model.layout.d_model
        if not 0 <= spec["layer"] < layers:
            raise PackCorrupt(f"detector.lens.layer {spec['layer']} is out of range 0..{layers - 1}.")
        shapes = {"weight": (width, width), "bias": (width,)}
        cls = _LENSES.get(spec["kind"])
        if cls is None:
            raise PackCorrupt(f"detector.lens.kind {spec['kind'][:40]!r} is unknown.")
        return cls(layer=spec["layer"], **self._tensors(cls, spec["tensors"], "detector.lens", shapes))

    def _edit(self, value: object, where: str, width: int) -> Edit:
        spec = read_fields(value, where, {"kind": str, "tensors": dict})
        cls = _EDITS.get(spec["kind"])
        if cls is None:
            raise PackCorrupt(f"{where}.kind {spec['kind'][:40]!r} is unknown.")
        shapes = {"basis": (None, width)}
        edit = cls(**self._tensors(cls, spec["tensors"], where, shapes, default=(width,)))
        if isinstance(edit, Project):
            _check_orthonormal(edit.basis, where)
        return edit
