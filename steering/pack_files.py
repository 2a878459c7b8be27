"""A pack's files: `pack.json`, `tensors.safetensors` and `CARD.md` in one directory, sealed by digests.

`pack.json` states the digests of the two others and, as `digest`, its own: that one names the pack's whole content.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from torch import Tensor

from steering.durable import beside, replace_folder, write_durably
from steering.errors import PackCorrupt, PackError
from steering.strict_json import NUMBER, Types, parse_object, read_fields
from steering.tensor_file import MAX_FILE_BYTES, read_tensors, write_tensors
from steering.unit import abridged

FORMAT = "unsway.pack/1"

DOCUMENT, TENSORS, CARD = "pack.json", "tensors.safetensors", "CARD.md"
OWNER = "owner.json"
"""Not of the pack: whose it is, where it was uploaded to a server."""

_MAX_BYTES = {DOCUMENT: 2**20, TENSORS: MAX_FILE_BYTES, CARD: 2**20}
_KNOWN = {*_MAX_BYTES, OWNER}
_FIELDS: Types = {
    "format": str,
    "name": str,
    "description": str,
    "model": dict,
    "files": dict,
    "detector": (dict, NoneType),
    "corrections": list,
    "max_strength": NUMBER,
    "evidence": dict,
    "created": dict,
}


def read_document(directory: Path) -> tuple[dict[str, Any], str]:
    """(pack.json without its digest, that digest), checked as far as pack.json goes alone. Raises `PackCorrupt`."""
    document = parse_object(read_file(directory, DOCUMENT), DOCUMENT)
    if document.get("format") != FORMAT:
        raise PackCorrupt(f"pack.json has format {str(document.get('format'))[:40]!r}; this version reads {FORMAT!r}.")
    stated = document.pop("digest", None)
    read_fields(document, DOCUMENT, _FIELDS)
    read_fields(document["model"], "model", {"name": str, "fingerprint": str})
    read_fields(document["files"], "files", {TENSORS: str, CARD: str})
    read_fields(document["created"], "created", dict.fromkeys(document["created"], str))
    digest = _document_digest(document)
    if stated != digest:
        raise PackCorrupt("pack.json does not match the digest it states: it was damaged or edited.")
    return document, digest


def read_files(directory: Path, files: Mapping[str, str]) -> tuple[dict[str, Tensor], str]:
    """(tensors, card) of a pack whose document states `files`. Raises `PackCorrupt`."""
    content = {name: read_file(directory, name) for name in files}
    for name, raw in content.items():
        if hashlib.sha256(raw).hexdigest() != files[name]:
            raise PackCorrupt(f"{name} does not match its digest in pack.json: it was damaged or edited.")
    try:
        card = content[CARD].decode()
    except UnicodeDecodeError as error:
        raise PackCorrupt(f"{CARD} is not UTF-8.") from error
    return read_tensors(content[TENSORS]), card


def write_pack(directory: Path, document: Mapping[str, object], tensors: Mapping[str, Tensor], card: str) -> str:
    """Writes or replaces a pack as a whole and returns its digest. `document` is pack.json without `files`.

    A process killed meanwhile leaves the old pack or the new one; never a mix. Between two renames it leaves neither in
    its place, and the old one under a hidden name (`durable`).
    """
    content = {TENSORS: write_tensors(tensors), CARD: card.encode()}
    document = {**document, "files": {name: hashlib.sha256(raw).hexdigest() for name, raw in content.items()}}
    digest = _document_digest(document)
    content[DOCUMENT] = (json.dumps({**document, "digest": digest}, indent=2) + "\n").encode()
    for name, raw in content.items():
        if len(raw) > _MAX_BYTES[name]:
            raise PackError(f"{name} would have {len(raw)} bytes; a pack's may have {_MAX_BYTES[name]}.")
    _replace_directory(directory, content)
    return digest


def describe(document: Mapping[str, Any]) -> str:
    """The card, in Markdown, of a pack that comes without one."""
    model, detector = document["model"], document["detector"]
    reads = (
        f"lens at layer {detector['lens']['layer']}, threshold {detector['threshold']:g} bits" if detector else "none"
    )
    lines = [
        f"# {document['name']}",
        "",
        document["description"],
        "",
        f"- made for: {model['name']} (`{model['fingerprint']}`)",
        f"- detector: {reads}",
        f"- largest strength: {document['max_strength']:g}",
        "",
        "| correction | site | edit | gate |",
        "|---|---|---|---|",
        *(
            f"| {c['name']} | {abridged(c['edit'].get('units', [c['site']]))} "
            f"| {c['edit']['kind']} | {c['gate']['kind']} |"
            for c in document["corrections"]
        ),
        "",
        "```json",
        json.dumps(document["evidence"], indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def _document_digest(document: Mapping[str, object]) -> str:
    """sha256 of the canonical form: sorted keys, no spaces, ASCII."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_file(directory: Path, name: str) -> bytes:
    try:
        with (directory / name).open("rb") as file:
            raw = file.read(_MAX_BYTES[name] + 1)
    except OSError as error:
        raise PackCorrupt(f"{name} cannot be read ({error.strerror}).") from error
    if len(raw) > _MAX_BYTES[name]:
        raise PackCorrupt(f"{name} is larger than {_MAX_BYTES[name]} bytes.")
    return raw


def may_be_replaced(place: Path) -> bool:
    """Whether there is nothing, or a pack, whole or not, and nothing else: no other folder is ever replaced."""
    return not place.exists() or (place.is_dir() and {path.name for path in place.iterdir()} <= _KNOWN)


def check_place(place: Path) -> None:
    if not may_be_replaced(place):
        raise PackError(f"{place} exists and is no pack.")


def _replace_directory(directory: Path, content: Mapping[str, bytes]) -> None:
    check_place(directory)
    new = beside(directory, "new")
    new.mkdir(parents=True)
    try:
        for name, raw in content.items():
            write_durably(new / name, raw)
        replace_folder(new, directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)
