"""Pack: what calibration made for one model. Public name: profile. A request's overrides turn it into a plan."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar
from weakref import proxy

from steering.correction import EVERYWHERE, AnyCorrection, Correction, LogitCorrection, WeightCorrection, by_kind
from steering.errors import InvalidRequest, PackCorrupt, PackModelMismatch, ProfileObserveOnly, ValueOutOfRange
from steering.gate import Gate, Phase
from steering.model.loading import LanguageModel
from steering.pack_files import FORMAT, describe, read_document, read_files, write_pack
from steering.pack_parts import PackReader, PackWriter
from steering.plan import Detector, Mode, Plan, Trace

RESERVED_NAMES = frozenset({"on", "off", "observe", "compare", "none", "default", "true", "false", "null"})

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")
_C = TypeVar("_C", Correction, LogitCorrection, WeightCorrection)


def check_pack_name(name: str) -> None:
    """Raises ValueError."""
    if not _NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise ValueError(f"pack name {name[:80]!r} is reserved or does not match {_NAME.pattern}")


@dataclass(frozen=True)
class Overrides:
    """What a request changes about a pack. The defaults change nothing."""

    mode: Mode = "on"
    strength: float = 1.0
    """Multiplies the calibrated dose: 0 to the pack's `max_strength`."""
    gate: Literal["profile", "always", "drift"] = "profile"
    threshold: float | None = None
    """Drift above which a gate opens, bits, 0 to 1."""
    phases: frozenset[Phase] | None = None
    trace: Trace = "off"


@dataclass(frozen=True, eq=False)
class Pack:
    """Corrections and a detector with their passport. Impossible packs raise ValueError."""

    name: str
    description: str
    model_name: str
    """Of the model it was made for: for people. What counts is the fingerprint."""
    fingerprint: str
    corrections: tuple[Correction, ...] = ()
    logit_corrections: tuple[LogitCorrection, ...] = ()
    detector: Detector | None = None
    max_strength: float = 1.0
    """Largest strength whose guards held in calibration, at least 1."""
    evidence: Mapping[str, object] = field(default_factory=dict)
    """What was measured, as JSON."""
    created: Mapping[str, str] = field(default_factory=lambda: _versions())
    """Versions it was made with."""
    card: str = ""
    """Markdown for people; saving writes one where there is none."""
    weight_corrections: tuple[WeightCorrection, ...] = ()
    digest: str = ""
    """sha256 (hex) of what was saved, tensors included; empty until then."""

    def __post_init__(self) -> None:
        check_pack_name(self.name)
        if not _FINGERPRINT.fullmatch(self.fingerprint):
            raise ValueError("fingerprint must read sha256:<64 hex digits>")
        if not (math.isfinite(self.max_strength) and self.max_strength >= 1):
            raise ValueError(f"max_strength must be at least 1, got {self.max_strength}")
        self._check_corrections()
        if self.detector is not None and not 0 <= self.detector.threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1 bit, got {self.detector.threshold}")

    def _check_corrections(self) -> None:
        plan = Plan(
            "on",
            corrections=self.corrections,
            logit_corrections=self.logit_corrections,
            weight_corrections=self.weight_corrections,
            detector=self.detector,
        )
        names = [correction.name for correction in plan.all_corrections]
        if len(set(names)) < len(names) or not all(_NAME.fullmatch(name) for name in names):
            raise ValueError(f"names of corrections must be unique and match {_NAME.pattern}")
        if not all(math.isfinite(correction.strength) for correction in plan.all_corrections):
            raise ValueError("strengths of corrections must be finite")
        if any(c.gate.phases != {"completion"} for c in self.logit_corrections):
            raise ValueError("a correction at the logits acts in the completion only")

    @property
    def all_corrections(self) -> tuple[AnyCorrection, ...]:
        return (*self.corrections, *self.logit_corrections, *self.weight_corrections)

    @property
    def observe_only(self) -> bool:
        """It measures and has nothing to apply."""
        return not self.all_corrections

    def plan(self, overrides: Overrides) -> Plan:
        """What one request will do. Raises `InvalidRequest` with param `steering.<key>`.

        Equal overrides give the same plan, and unchanged corrections stay the same objects: rows that share
        them share a batch.
        """
        return self._plans(overrides)

    @cached_property
    def _plans(self) -> Callable[[Overrides], Plan]:
        # By a weak reference: a pack that is replaced is to be freed at once, not when cycles are looked for.
        return lru_cache(maxsize=256)(partial(Pack._plan, proxy(self)))

    def _plan(self, overrides: Overrides) -> Plan:
        if not 0 <= overrides.strength <= self.max_strength:
            allowed = f"between 0 and {self.max_strength:g} for profile {self.name}"
            raise ValueOutOfRange(f"strength must be {allowed} (got {overrides.strength!r}).", "steering.strength")
        if overrides.mode == "off":
            return Plan()
        if overrides.mode == "on" and self.observe_only:
            raise ProfileObserveOnly(f"profile {self.name} only measures: use mode observe.", "steering.mode")
        if overrides.mode == "observe" and self.detector is None:
            raise InvalidRequest(f"profile {self.name} has no detector to observe with.", "steering.mode")
        return Plan(
            mode=overrides.mode,
            profile=f"{self.name}@{self.digest[:12]}",
            strength=float(overrides.strength),
            detector=self._detector(overrides),
            corrections=tuple(self._regated(c, overrides) for c in self.corrections),
            logit_corrections=tuple(self._regated(c, overrides) for c in self.logit_corrections),
            weight_corrections=tuple(self._regated(c, overrides) for c in self.weight_corrections),
            trace=overrides.trace,
        )

    def _detector(self, overrides: Overrides) -> Detector | None:
        if overrides.gate == "drift" and self.detector is None:
            raise InvalidRequest(f"profile {self.name} has no detector for a drift gate.", "steering.gate")
        threshold = overrides.threshold
        if threshold is None:
            return self.detector
        if self.detector is None:
            raise InvalidRequest(f"profile {self.name} has no detector to set a threshold of.", "steering.threshold")
        if not 0 <= threshold <= 1:
            raise ValueOutOfRange(f"threshold must be between 0 and 1 (got {threshold!r}).", "steering.threshold")
        return replace(self.detector, threshold=float(threshold))

    def _regated(self, correction: _C, overrides: Overrides) -> _C:
        if isinstance(correction, WeightCorrection):
            _check_everywhere(overrides)
            return correction
        gate = _overridden(correction.gate, overrides, at_logits=isinstance(correction, LogitCorrection))
        if gate == correction.gate:
            return correction
        variant: _C = self._variants.setdefault((correction, gate), replace(correction, gate=gate))
        return variant

    @cached_property
    def _variants(self) -> dict[tuple[AnyCorrection, Gate], Any]:
        """Corrections under another gate: one object each, whatever else the overrides say."""
        return {}


def _overridden(gate: Gate, overrides: Overrides, *, at_logits: bool) -> Gate:
    kind = gate.kind if overrides.gate == "profile" else overrides.gate
    phases = gate.phases if overrides.phases is None else overrides.phases
    param = "steering.gate" if overrides.phases is None else "steering.phases"
    if not phases:
        raise InvalidRequest("phases must name prompt, completion or both.", param)
    if phases != {"completion"} and (kind == "drift" or at_logits):
        what = "a correction at the logits" if at_logits else "a correction behind a drift gate"
        raise InvalidRequest(f"{what} can only act in the completion, not in the prompt.", param)
    return Gate(kind, phases, latch=gate.latch and kind == "drift")


def _check_everywhere(overrides: Overrides) -> None:
    """Of changed weights, whose gate is what it is."""
    if overrides.gate == "drift":
        raise InvalidRequest("a correction of weights acts always: it cannot wait for drift.", "steering.gate")
    if overrides.phases not in (None, EVERYWHERE.phases):
        raise InvalidRequest(
            "a correction of weights acts in prompt and completion: phases can only be both.", "steering.phases"
        )


def save_pack(pack: Pack, directory: Path) -> Pack:
    """Writes the pack as a directory, replacing what stood there, and returns it with its digest (and card)."""
    writer = PackWriter()
    document = {
        "format": FORMAT,
        "name": pack.name,
        "description": pack.description,
        "model": {"name": pack.model_name, "fingerprint": pack.fingerprint},
        "detector": writer.detector(pack.detector) if pack.detector else None,
        "corrections": writer.corrections(pack.all_corrections),
        "max_strength": float(pack.max_strength),
        "evidence": dict(pack.evidence),
        "created": dict(pack.created),
    }
    card = pack.card or describe(document)
    return replace(pack, card=card, digest=write_pack(directory, document, writer.tensors, card))


def load_pack(directory: Path, model: LanguageModel | None) -> Pack:
    """Raises `PackCorrupt` and `PackModelMismatch`; what it returns is safe to run on `model`.

    None: the model is not at hand, and the pack is to be looked at, not to be run.
    """
    document, digest = read_document(directory)
    made_for = document["model"]
    if model is not None and made_for["fingerprint"] != model.fingerprint:
        message = f"made for {made_for['name']} ({_short(made_for['fingerprint'])}), not for {model.name}"
        raise PackModelMismatch(
            f"{document['name']}: {message} ({_short(model.fingerprint)}).",
            expected=made_for["fingerprint"],
            got=model.fingerprint,
        )
    tensors, card = read_files(directory, document["files"])
    reader = PackReader(model, tensors)
    corrections = reader.corrections(document["corrections"])
    detector = None if document["detector"] is None else reader.detector(document["detector"])
    reader.check_all_used()
    try:
        return Pack(
            name=document["name"],
            description=document["description"],
            model_name=made_for["name"],
            fingerprint=made_for["fingerprint"],
            **by_kind(corrections),
            detector=detector,
            max_strength=float(document["max_strength"]),
            evidence=document["evidence"],
            created=document["created"],
            card=card,
            digest=digest,
        )
    except ValueError as error:
        raise PackCorrupt(f"pack.json: {error}.") from error


def _short(fingerprint: str) -> str:
    return fingerprint[: len("sha256:") + 12]


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("unsway", "torch", "transformers"):
        with suppress(metadata.PackageNotFoundError):  # run from a checkout
            versions[package] = metadata.version(package)
    return versions
