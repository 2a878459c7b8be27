"""The parts of a pack, detector and corrections, to and from entries of `pack.json` and named tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from steering.correction import AnyCorrection, Correction, LogitCorrection, WeightCorrection
from steering.edit import Edit, LayerContrast, LensContrast, Project, Scale, Set, Shift, SparseWeights
from steering.errors import LayerOutOfRange, PackCorrupt, PackOutOfRange, TensorMismatch, TensorNotFinite
from steering.gate import Gate
from steering.lens import Lens, LogitLens, TunedLens
from steering.model.loading import LanguageModel
from steering.plan import Detector
from steering.site import Component, Site
from steering.strict_json import NUMBER, Types, read_fields
from steering.unit import Unit

_EDITS: dict[str, type[Edit]] = {"set": Set, "scale": Scale, "shift": Shift, "project": Project}
_LENSES: dict[str, type[Lens]] = {"logit": LogitLens, "tuned": TunedLens}
_TENSORS: dict[type[Edit | Lens], tuple[str, ...]] = {
    Set: ("target", "mask"),
    Scale: ("factor",),
    Shift: ("vector",),
    Project: ("basis",),
    LogitLens: (),
    TunedLens: ("weight", "bias"),
}
_LOGITS, _LENS_CONTRAST, _LAYER_CONTRAST = "logits", "lens_contrast", "layer_contrast"
_WEIGHTS, _SPARSE_WEIGHTS = "weights", "sparse_weights"
_ORTHONORMAL_TOLERANCE = 0.02
"""Of the entries of D D^T - 1: what rows stored in bfloat16 keep to."""


class PackWriter:
    """Turns parts into entries, and gathers their tensors."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def detector(self, detector: Detector) -> dict[str, object]:
        lens = {**self._part(detector.lens, _LENSES, "lens"), "layer": detector.lens.layer}
        return {"lens": lens, "threshold": float(detector.threshold), "num_candidates": detector.num_candidates}

    def corrections(self, corrections: Iterable[AnyCorrection]) -> list[dict[str, object]]:
        return [self._correction(correction, f"corrections.{i}") for i, correction in enumerate(corrections)]

    def _correction(self, correction: AnyCorrection, where: str) -> dict[str, object]:
        if isinstance(correction, LogitCorrection):
            site, edit = _LOGITS, _contrast_entry(correction.edit)
        elif isinstance(correction, WeightCorrection):
            site, edit = _WEIGHTS, self._sparse_weights(correction.edit, where)
        else:
            site, edit = str(correction.site), self._part(correction.edit, _EDITS, where)
        gate = correction.gate
        return {
            "name": correction.name,
            "site": site,
            "edit": edit,
            "gate": {"kind": gate.kind, "phases": sorted(gate.phases), "latch": gate.latch},
            "strength": float(correction.strength),
        }

    def _sparse_weights(self, edit: SparseWeights, where: str) -> dict[str, object]:
        self.tensors[f"{where}.deltas"] = edit.deltas
        tensors = {"deltas": f"{where}.deltas"}
        return {"kind": _SPARSE_WEIGHTS, "units": [str(unit) for unit in edit.units], "tensors": tensors}

    def _part(self, part: Edit | Lens, kinds: Mapping[str, type[Edit | Lens]], where: str) -> dict[str, object]:
        kind = next(kind for kind, cls in kinds.items() if type(part) is cls)
        names = {key: f"{where}.{key}" for key in _TENSORS[type(part)]}
        self.tensors |= {name: getattr(part, key) for key, name in names.items()}
        return {"kind": kind, "tensors": names}


@dataclass
class PackReader:
    """Turns entries into parts for one model, on its device and of its dtype. Every fault is `PackCorrupt`.

    Without a model, parts stay as they are stored, and widths are only held against one another.
    """

    model: LanguageModel | None
    tensors: Mapping[str, Tensor]
    _used: set[str] = field(default_factory=set)
    _widths: dict[Component, int] = field(default_factory=dict)
    """Of each component, as the first tensor for it has it; for want of a model."""

    def detector(self, entry: object) -> Detector:
        spec = read_fields(entry, "detector", {"lens": dict, "threshold": NUMBER, "num_candidates": int})
        if self.model and spec["num_candidates"] > self.model.layout.vocab_size:
            raise PackCorrupt(f"detector.num_candidates exceeds the vocabulary ({self.model.layout.vocab_size}).")
        lens = self._lens(spec["lens"], "detector.lens")
        try:
            return Detector(lens, float(spec["threshold"]), spec["num_candidates"])
        except ValueError as error:
            raise PackCorrupt(f"detector: {error}.") from error

    def corrections(self, entries: Sequence[object]) -> list[AnyCorrection]:
        return [self._correction(entry, f"corrections.{i}") for i, entry in enumerate(entries)]

    def check_all_used(self) -> None:
        if unused := sorted(self.tensors.keys() - self._used):
            raise PackCorrupt(f"tensor {unused[0]} is used by nothing in pack.json.")

    def _correction(self, entry: object, where: str) -> AnyCorrection:
        types: Types = {"name": str, "site": str, "edit": dict, "gate": dict, "strength": NUMBER}
        spec = read_fields(entry, where, types)
        name, gate, strength = spec["name"], _gate(spec["gate"], f"{where}.gate"), float(spec["strength"])
        if spec["site"] == _LOGITS:
            return LogitCorrection(name, self._contrast(spec["edit"], f"{where}.edit"), gate, strength)
        if spec["site"] == _WEIGHTS:
            edit = self._sparse_weights(spec["edit"], f"{where}.edit")
            try:
                return WeightCorrection(name, edit, gate, strength)
            except ValueError as error:
                raise PackCorrupt(f"{where}.gate: {error}.") from error
        try:
            site = Site.parse(spec["site"])
            if self.model:
                self.model.layout.check_site(site)
        except LayerOutOfRange as error:
            raise PackOutOfRange(f"{where}.site: {error}") from error
        except ValueError as error:
            raise PackCorrupt(f"{where}.site: {error}") from error
        return Correction(name, site, self._edit(spec["edit"], f"{where}.edit", site.component), gate, strength)

    def _edit(self, entry: object, where: str, component: Component) -> Edit:
        spec = read_fields(entry, where, {"kind": str, "tensors": dict})
        cls = _EDITS.get(spec["kind"])
        if cls is None:
            raise PackCorrupt(f"{where}.kind must be one of {', '.join(_EDITS)}.")
        edit: Edit = cls(**self._read(cls, spec["tensors"], where, component))
        if isinstance(edit, Project):
            _check_orthonormal(edit.basis, where)
        return edit

    def _contrast(self, entry: Mapping[str, object], where: str) -> LensContrast | LayerContrast:
        layered = entry.get("kind") == _LAYER_CONTRAST
        types: Types = {"kind": str, "plausibility": NUMBER, **({"bucket": list} if layered else {})}
        spec = read_fields(entry, where, types)
        if spec["kind"] not in (_LENS_CONTRAST, _LAYER_CONTRAST):
            raise PackCorrupt(f"{where}.kind must be {_LENS_CONTRAST} or {_LAYER_CONTRAST} at the logits.")
        plausibility = float(spec["plausibility"])
        try:
            if layered:
                return LayerContrast(self._bucket(spec["bucket"], where), plausibility)
            return LensContrast(plausibility)
        except ValueError as error:
            raise PackCorrupt(f"{where}: {error}.") from error

    def _bucket(self, layers: Sequence[object], where: str) -> tuple[int, ...]:
        bucket = tuple(layer for layer in layers if type(layer) is int)
        if len(bucket) < len(layers):
            raise PackCorrupt(f"{where}.bucket must be a list of layers.")
        if self.model and bucket and max(bucket) >= (L := self.model.layout.num_layers):
            raise PackOutOfRange(f"{where}.bucket has a layer out of range 0..{L - 1}.")
        return bucket

    def _sparse_weights(self, entry: object, where: str) -> SparseWeights:
        spec = read_fields(entry, where, {"kind": str, "units": list, "tensors": dict})
        if spec["kind"] != _SPARSE_WEIGHTS:
            raise PackCorrupt(f"{where}.kind must be {_SPARSE_WEIGHTS} at the weights.")
        names = read_fields(spec["tensors"], f"{where}.tensors", {"deltas": str})
        try:
            units = tuple(Unit.parse(unit if isinstance(unit, str) else "") for unit in spec["units"])
            if self.model:
                self.model.layout.check_units(units)
            deltas = self._tensor("deltas", names["deltas"], "resid_post")
            if self.model and len(deltas) != (P := self.model.layout.num_deltas(units)):
                raise TensorMismatch(f"tensor {names['deltas']} has {len(deltas)} rows; these units have {P}.")
            return SparseWeights(units, deltas)
        except LayerOutOfRange as error:
            raise PackOutOfRange(f"{where}.units: {error}") from error
        except ValueError as error:
            raise PackCorrupt(f"{where}.units: {error}") from error

    def _lens(self, entry: object, where: str) -> Lens:
        spec = read_fields(entry, where, {"kind": str, "layer": int, "tensors": dict})
        cls = _LENSES.get(spec["kind"])
        if cls is None:
            raise PackCorrupt(f"{where}.kind must be one of {', '.join(_LENSES)}.")
        if spec["layer"] < 0 or (self.model and spec["layer"] >= self.model.layout.num_layers):
            allowed = f"out of range 0..{self.model.layout.num_layers - 1}" if self.model else "negative"
            raise PackOutOfRange(f"{where}.layer {spec['layer']} is {allowed}.")
        lens: Lens = cls(layer=spec["layer"], **self._read(cls, spec["tensors"], where, "resid_post"))
        return lens

    def _read(self, cls: type[Edit | Lens], names: object, where: str, component: Component) -> dict[str, Any]:
        """The tensors of one part, checked: type, shape, finite in the model's dtype."""
        types: Types = dict.fromkeys(_TENSORS[cls], str)
        spec = read_fields(names, f"{where}.tensors", types)
        return {key: self._tensor(key, name, component) for key, name in spec.items()}

    def _tensor(self, key: str, name: str, component: Component) -> Tensor:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise PackCorrupt(f"tensor {name[:40]!r} is not in the tensor file.")
        self._used.add(name)
        _check_shape(tensor, name, key, self._width(component, tensor))
        device = self.model.device if self.model else tensor.device
        if key == "mask":
            if tensor.is_floating_point() or bool((tensor > 1).any()):
                raise TensorMismatch(f"tensor {name} is not a mask: expected bool, or uint8 of 0 and 1.")
            return tensor.to(device, torch.bool)
        if not tensor.is_floating_point():
            raise TensorMismatch(f"tensor {name} has type {tensor.dtype}; expected float32, bfloat16 or float16.")
        tensor = tensor.to(device, self.model.dtype if self.model else tensor.dtype)
        if not bool(tensor.isfinite().all()):
            raise TensorNotFinite(f"tensor {name} holds values that are not finite in {tensor.dtype}.")
        return tensor

    def _width(self, component: Component, tensor: Tensor) -> int:
        if self.model:
            return self.model.layout.width(component)
        return self._widths.setdefault(component, tensor.shape[-1] if tensor.ndim else 0)


def _gate(entry: object, where: str) -> Gate:
    spec = read_fields(entry, where, {"kind": str, "phases": list, "latch": bool})
    if spec["kind"] not in ("always", "drift") or not all(
        phase in ("prompt", "completion") for phase in spec["phases"]
    ):
        raise PackCorrupt(f"{where}: kind must be always or drift, phases of prompt and completion.")
    try:
        return Gate(spec["kind"], frozenset(spec["phases"]), spec["latch"])
    except ValueError as error:
        raise PackCorrupt(f"{where}: {error}.") from error


def _contrast_entry(edit: LensContrast | LayerContrast) -> dict[str, object]:
    if isinstance(edit, LensContrast):
        return {"kind": _LENS_CONTRAST, "plausibility": float(edit.plausibility)}
    return {"kind": _LAYER_CONTRAST, "bucket": list(edit.bucket), "plausibility": float(edit.plausibility)}


def _check_shape(tensor: Tensor, name: str, key: str, width: int) -> None:
    shape = list(tensor.shape)
    if key == "basis":
        ok, expected = len(shape) == 2 and 1 <= shape[0] <= width and shape[1] == width, f"[1 to {width}, {width}]"
    elif key == "deltas":
        ok, expected = len(shape) == 2 and shape[1] == width, f"[rows, {width}]"
    else:
        wanted = [width, width] if key == "weight" else [width]
        ok, expected = shape == wanted, str(wanted)
    if not ok:
        raise TensorMismatch(f"tensor {name} has shape {shape}; expected {expected}.")


def _check_orthonormal(basis: Tensor, where: str) -> None:
    rows = basis.float()
    error = (rows @ rows.T - torch.eye(len(rows), device=rows.device)).abs().max()
    if error > _ORTHONORMAL_TOLERANCE:
        raise PackCorrupt(f"{where}: the rows of basis are not orthonormal (off by {error:.2g}).")
