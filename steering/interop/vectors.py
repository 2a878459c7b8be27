"""Packs made of steering vectors and of features of sparse autoencoders; what of a pack a steering vector can hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from steering.calibration.read_sae import read_sae
from steering.correction import EVERYWHERE, AnyCorrection, Correction
from steering.edit import Shift
from steering.errors import DataError, PackError
from steering.interop.directions import Directions, read_bytes
from steering.interop.gguf import MAGIC, parse_gguf, write_gguf
from steering.interop.svec import parse_svec, write_svec
from steering.model.loading import LanguageModel
from steering.pack import Pack
from steering.site import Site

Format = Literal["gguf", "svec"]

_FIRST_LAYER: Mapping[Format, int] = {"gguf": 1, "svec": 0}


def import_vectors(
    path: Path,
    model: LanguageModel,
    name: str,
    *,
    layers: Sequence[int] = (),
    layer_offset: int = 0,
    strength: float = 1.0,
) -> Pack:
    """A pack that adds the vectors of a file at every position, as the programs they are from do.

    layers: which to take, as the file counts; all if none is named. layer_offset: what to add to them to get the
    model's blocks. Raises `DataError` and `PackError`.
    """
    raw = read_bytes(path)
    directions = _parse(raw, str(path))
    vectors = directions.vectors
    if not vectors:
        raise DataError("holds no direction.", file=str(path))
    if missing := sorted(set(layers) - vectors.keys()):
        raise DataError(f"holds no direction of layer {missing[0]}.", file=str(path))
    corrections, L = [], model.layout.num_layers
    for layer in layers or vectors:
        block = layer + layer_offset
        if not 0 <= block < L:
            raise DataError(
                f"layer {layer} would be block {block}; {model.name} has blocks 0 to {L - 1}.", file=str(path)
            )
        site = Site("resid_post", block)
        corrections.append(_shift(str(site), site, vectors[layer], model, strength, str(path)))
    origin = {
        "file": path.name,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "model_type": directions.model_type[:80],
        "notes": {key: directions.notes[key][:1000] for key in ("pack", "lost") if key in directions.notes},
        "layer_offset": layer_offset,
    }
    return _pack(name, "Steering vectors of another program.", model, corrections, {"imported": origin})


def import_features(
    path: Path, model: LanguageModel, name: str, *, site: Site, features: Sequence[int], strength: float = 1.0
) -> Pack:
    """A pack that adds what features of a published SAE decode to, at the site that the SAE reads.

    Raises `DataError`, `LayerOutOfRange` and `PackError`.
    """
    model.layout.check_site(site)
    sae = read_sae(path)
    corrections = []
    for feature in features:
        if not 0 <= feature < sae.num_features:
            raise DataError(f"has features 0 to {sae.num_features - 1}, no {feature}.", file=str(path))
        corrections.append(_shift(f"feature.{feature}", site, sae.decoder[feature].clone(), model, strength, str(path)))
    evidence = {"imported": {"file": path.name, "features": list(features), "site": str(site)}}
    return _pack(name, "Decoder directions of a sparse autoencoder.", model, corrections, evidence)


def export_vectors(pack: Pack, model_type: str, format: Format) -> tuple[bytes, list[str]]:
    """(a file, what of the pack it does not hold). Raises `PackError` where it would hold nothing."""
    vectors: dict[int, Tensor] = {}
    losses = [loss for c in pack.all_corrections if (loss := _loss(c, format))]
    if pack.detector:
        losses.append("the detector is left out")
    for c in pack.corrections:
        if isinstance(c.edit, Shift) and _fits(c, format):
            vector = c.strength * c.edit.vector.detach().cpu().float()
            vectors[c.site.layer] = vectors[c.site.layer] + vector if c.site.layer in vectors else vector
    if not vectors:
        raise PackError(
            f"nothing of {pack.name} can be written as {format}: {'; '.join(losses) or 'it corrects nothing'}."
        )
    if not all(bool(vector.isfinite().all()) for vector in vectors.values()):
        raise PackError(f"{pack.name} has vectors that are not finite at their strength.")
    notes = {"pack": f"{pack.name}@{pack.digest[:12]}"} | ({"lost": "; ".join(losses)} if losses else {})
    write = write_gguf if format == "gguf" else write_svec
    return write(Directions(vectors, model_type, notes)), losses


def _parse(raw: bytes, file: str) -> Directions:
    if raw.startswith(MAGIC):
        return parse_gguf(raw, file)
    if raw.lstrip()[:1] == b"{":
        return parse_svec(raw, file)
    raise DataError("is neither a GGUF control vector nor a .svec; pickles (.pt, .bin) are not opened.", file=file)


def _shift(name: str, site: Site, vector: Tensor, model: LanguageModel, strength: float, file: str) -> Correction:
    width = model.layout.width(site.component)
    if list(vector.shape) != [width]:
        raise DataError(f"{name} has width {len(vector)}; {site} of {model.name} has {width}.", file=file)
    if not bool(vector.isfinite().all()):
        raise DataError(f"{name} holds values that are not finite.", file=file)
    return Correction(name, site, Shift(vector), EVERYWHERE, strength)


def _pack(
    name: str, description: str, model: LanguageModel, corrections: Sequence[Correction], evidence: Mapping[str, object]
) -> Pack:
    try:
        return Pack(
            name=name,
            description=f"{description} Imported: nothing about it was measured here.",
            model_name=model.name,
            fingerprint=model.fingerprint,
            corrections=tuple(corrections),
            evidence=evidence,
        )
    except ValueError as error:
        raise PackError(f"{error}.") from error


def _loss(correction: AnyCorrection, format: Format) -> str:
    """What is lost of a correction, '' for nothing."""
    if not _fits(correction, format):
        return f"{correction.name} is left out"
    return "" if correction.gate == EVERYWHERE else f"{correction.name} acts at every position, without its gate"


def _fits(correction: AnyCorrection, format: Format) -> bool:
    """A vector that is added to the residual stream, after a block that the format has."""
    return (
        isinstance(correction, Correction)
        and isinstance(correction.edit, Shift)
        and correction.site.component == "resid_post"
        and correction.site.layer >= _FIRST_LAYER[format]
    )
