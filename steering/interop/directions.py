"""Directions: what files of steering vectors hold, whatever their format; and the files as bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from steering.durable import replacing
from steering.errors import DataError

MAX_BYTES = 2**26
"""A vector for each of 126 layers of width 16,384 takes 8 MB in a GGUF, some 45 MB as JSON."""


@dataclass(frozen=True, eq=False)
class Directions:
    """A vector for each of some layers, to be added to the residual stream after the block of that number."""

    vectors: Mapping[int, Tensor]
    """Layer -> [D] float32 on the CPU, all of one width."""
    model_type: str
    """Of the model it was made for, as transformers names it; files need not be right about it."""
    notes: Mapping[str, str]
    """What this project writes about a file into it; empty for the files of others."""


def read_bytes(path: Path) -> bytes:
    """A whole file, or what a link leads to. Raises `DataError`."""
    try:
        if not path.is_file():
            raise DataError("there is no such file.", file=str(path))
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}.", file=str(path)) from error
    if len(raw) > MAX_BYTES:
        raise DataError(f"is larger than {MAX_BYTES >> 20} MiB: no steering vector is.", file=str(path))
    return raw


def write_bytes(path: Path, raw: bytes) -> None:
    """Writes or replaces the file as a whole."""
    write_pieces(path, (raw,))


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """The same of one that need not be in memory as a whole."""
    with replacing(path) as new, new.open("wb") as file:
        file.writelines(pieces)
