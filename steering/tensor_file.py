"""Tensors of untrusted files: what a safetensors file must satisfy before its library is handed the bytes.

The library checks offsets, lengths and types. It accepts repeated names, names that are paths, hundreds of thousands
of empty tensors, and NaN: the first three are refused here, NaN by who knows what each tensor is for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from steering.errors import PackCorrupt
from steering.strict_json import parse_object

MAX_FILE_BYTES = 2**30
"""Sixteen tuned head groups of an 8B model in float32 take a third of it, a lens layer of D 8,192 a quarter."""
MAX_HEADER_BYTES = 2**20
MAX_TENSORS = 4096

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")
_TYPES = ("F32", "BF16", "F16", "BOOL", "U8")


def read_tensors(raw: bytes) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU. Raises `PackCorrupt`."""
    _check_header(raw)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(raw)
    except SafetensorError as error:
        raise PackCorrupt(f"tensor file refused: {error}.") from error
    return tensors


def write_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The inverse; equal tensors give equal bytes. Copies, because the library refuses tensors that share memory."""
    raw: bytes = safetensors.torch.save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})
    return raw


def _check_header(raw: bytes) -> None:
    """The format: 8 bytes of header length, little-endian; a JSON header; the data."""
    if len(raw) > MAX_FILE_BYTES:
        raise PackCorrupt(f"tensor file has {len(raw)} bytes; at most {MAX_FILE_BYTES} are read.")
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > len(raw) - 8:
        raise PackCorrupt("tensor file is truncated or no safetensors file.")
    if length > MAX_HEADER_BYTES:
        raise PackCorrupt(f"tensor file has a header of {length} bytes; at most {MAX_HEADER_BYTES} are read.")
    header = parse_object(raw[8 : 8 + length], "header of the tensor file")
    if len(header) > MAX_TENSORS:
        raise PackCorrupt(f"tensor file has {len(header)} tensors; at most {MAX_TENSORS} are read.")
    for name, entry in header.items():
        if len(name) > 128 or not _NAME.fullmatch(name):
            raise PackCorrupt(f"tensor name {name[:40]!r} is not allowed.")
        if not isinstance(entry, dict) or entry.get("dtype") not in _TYPES:
            raise PackCorrupt(f"tensor {name} is none of {', '.join(_TYPES)}.")
