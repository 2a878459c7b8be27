"""Tensors of untrusted files: what a safetensors file must satisfy before its library is handed the bytes.

The library checks offsets, lengths and types. It accepts repeated names, names that are paths, hundreds of thousands
of empty tensors, and NaN: the first three are refused here, NaN by who knows what each tensor is for.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any, BinaryIO

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from steering.errors import PackCorrupt, TensorFileCorrupt, TensorMismatch
from steering.strict_json import parse_object

MAX_FILE_BYTES = 2**30
"""Sixteen tuned head groups of an 8B model in float32 take a third of it, a lens layer of D 8,192 a quarter."""
MAX_HEADER_BYTES = 2**20
MAX_TENSORS = 4096

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")
_TYPES = ("F32", "BF16", "F16", "BOOL", "U8")
_OTHER_TYPES = ("F64", "F8_E4M3", "F8_E5M2", "I8", "I16", "I32", "I64", "U16", "U32", "U64")
"""That the format knows besides."""


def read_tensors(raw: bytes) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU. Raises `PackCorrupt`."""
    check_entries(read_header(io.BytesIO(raw)))
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(raw)
    except SafetensorError as error:
        raise TensorFileCorrupt(f"tensor file refused: {error}.") from error
    return tensors


def write_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The inverse; equal tensors give equal bytes. Copies, because the library refuses tensors that share memory."""
    raw: bytes = safetensors.torch.save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})
    return raw


def read_header(file: BinaryIO) -> dict[str, Any]:
    """The header of a file that stands at its beginning; it then stands at the data. Raises `TensorFileCorrupt`.

    The format: 8 bytes of header length, little-endian; a JSON header; the data.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size > MAX_FILE_BYTES:
        raise TensorFileCorrupt(f"tensor file has {size} bytes; at most {MAX_FILE_BYTES} are read.")
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise TensorFileCorrupt("tensor file is truncated or no safetensors file.")
    if length > MAX_HEADER_BYTES:
        raise TensorFileCorrupt(f"tensor file has a header of {length} bytes; at most {MAX_HEADER_BYTES} are read.")
    try:
        return parse_object(file.read(length), "header of the tensor file")
    except PackCorrupt as error:
        raise TensorFileCorrupt(str(error)) from error


def write_header(header: Mapping[str, object]) -> bytes:
    """All of a file that comes before its data, as the library writes it."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def check_entries(header: Mapping[str, object]) -> None:
    """Number, names and types of the tensors. Raises `TensorFileCorrupt` and `TensorMismatch`."""
    if len(header) > MAX_TENSORS:
        raise TensorFileCorrupt(f"tensor file has {len(header)} tensors; at most {MAX_TENSORS} are read.")
    for name, entry in header.items():
        if len(name) > 128 or not _NAME.fullmatch(name):
            raise TensorFileCorrupt(f"tensor name {name[:40]!r} is not allowed.")
        kind = entry.get("dtype") if isinstance(entry, dict) else None
        if kind not in _TYPES:
            fault = TensorMismatch if kind in _OTHER_TYPES else TensorFileCorrupt
            raise fault(f"tensor {name} is none of {', '.join(_TYPES)}.")
