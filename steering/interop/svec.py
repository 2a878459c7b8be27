"""`.svec`, the JSON of steering vectors of IBM's activation-steering (CAST) and AISteer360.

Both take direction k from what block k puts out. AISteer360's CAA adds it there, CAST to what goes into block k.
Vectors of single heads, of token positions and pairs that span a plane share the format; none of these is read.
"""

from __future__ import annotations

import json
import re
from typing import Any

import torch
from torch import Tensor

from steering.errors import DataError
from steering.interop.directions import Directions
from steering.strict_json import NUMBER, strict_loads

_LAYER = re.compile(r"0|[1-9][0-9]{0,3}")
_NOTES = "unsway"
_KEYS = ("model_type", "directions", "explained_variances", "num_heads", "head_dim", "probe_accuracies", _NOTES)


def parse_svec(raw: bytes, file: str) -> Directions:
    """Raises `DataError`."""
    document = _document(raw, file)
    vectors = {}
    for name, rows in document["directions"].items():
        if not _LAYER.fullmatch(name):
            raise DataError(f"{name[:40]!r} is no number of a layer.", file=file)
        vectors[int(name)] = _vector(rows, f"the direction of layer {name}", file)
    if len({len(vector) for vector in vectors.values()}) > 1:
        raise DataError("has directions of several widths.", file=file)
    notes = document.get(_NOTES)
    texts = {k: v for k, v in notes.items() if isinstance(v, str)} if isinstance(notes, dict) else {}
    return Directions(dict(sorted(vectors.items())), document["model_type"], texts)


def write_svec(directions: Directions) -> bytes:
    """As CAST and AISteer360 both read it: they skip the notes."""
    document = {
        "model_type": directions.model_type,
        "directions": {str(layer): vector.tolist() for layer, vector in sorted(directions.vectors.items())},
        "explained_variances": {},
        _NOTES: dict(directions.notes),
    }
    return (json.dumps(document) + "\n").encode()


def _document(raw: bytes, file: str) -> dict[str, Any]:
    try:
        document: Any = strict_loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not valid JSON: {error}.", file=file) from error
    if not isinstance(document, dict):
        raise DataError("expected an object.", file=file)
    for key in sorted(document.keys() - set(_KEYS)):
        raise DataError(f"{key[:40]!r} is no key of a .svec.", file=file)
    if not isinstance(document.get("model_type"), str) or not isinstance(document.get("directions"), dict):
        raise DataError("expected a text model_type and an object directions.", file=file)
    if document.get("num_heads") is not None or document.get("head_dim") is not None:
        raise DataError("has vectors of single heads; only vectors for the residual stream are read.", file=file)
    return document


def _vector(rows: object, what: str, file: str) -> Tensor:
    """[D], from [D] or [1, D]."""
    if isinstance(rows, list) and rows and isinstance(rows[0], list):
        if len(rows) > 1:
            raise DataError(f"{what} has {len(rows)} rows; only one vector a layer is read.", file=file)
        rows = rows[0]
    if not isinstance(rows, list) or not rows or any(type(number) not in NUMBER for number in rows):
        raise DataError(f"{what} must be a list of numbers.", file=file)
    try:
        return torch.tensor([float(number) for number in rows], dtype=torch.float32)
    except OverflowError as error:
        raise DataError(f"{what} holds numbers that are not finite.", file=file) from error
