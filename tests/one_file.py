"""Packs in one file, whole and spoilt."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
from torch import Tensor

from steering.model.loading import LanguageModel
from steering.one_file import pack_in_one_file
from steering.pack import Pack, save_pack
from tests.packs import full_pack, simple_pack


def raw_of(pack: Pack) -> tuple[bytes, str]:
    """(its file, its digest)"""
    with TemporaryDirectory() as folder:
        digest = save_pack(pack, Path(folder) / pack.name).digest
        return b"".join(pack_in_one_file(Path(folder) / pack.name).pieces()), digest


def simple(model: LanguageModel, name: str = "mine", **changes: object) -> tuple[bytes, str]:
    return raw_of(simple_pack(model, name=name, **changes))


def full(model: LanguageModel, name: str = "mine", **changes: object) -> tuple[bytes, str]:
    return raw_of(full_pack(model, name=name, **changes))


def taken_apart(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """(header, data). Written apart from the code under test."""
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def put_together(header: Mapping[str, object] | str, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def forged(raw: bytes, change: Callable[[Any], object] = lambda document: None, **tensors: Tensor | None) -> bytes:
    """With all digests right again, as a forger would. tensors: their names with __ for the dot."""
    header, _ = taken_apart(raw)
    texts = header["__metadata__"]
    held = safetensors.torch.load(raw)
    for key, tensor in tensors.items():
        held.pop(key.replace("__", "."), None)
        if tensor is not None:
            held[key.replace("__", ".")] = tensor
    document = json.loads(texts["pack.json"])
    change(document)
    document["files"]["tensors.safetensors"] = hashlib.sha256(safetensors.torch.save(held)).hexdigest()
    document.pop("digest", None)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    again: bytes = safetensors.torch.save(held, {**texts, "pack.json": json.dumps(document)})
    return again
