"""A pack in one file, to be sent: its tensor file, with `pack.json` and `CARD.md` as text in the metadata.

Any safetensors reader can look into it. Nothing in it is believed before `unpacked` has loaded it as the folder it is
made into, just as the next start will.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from steering.durable import beside, durable, replace_folder, write_durably
from steering.errors import PackCorrupt, PackError, TensorFileCorrupt, UnsupportedFile
from steering.model.loading import LanguageModel
from steering.pack import Pack, load_pack
from steering.pack_files import CARD, DOCUMENT, TENSORS, check_place, read_document, read_file
from steering.strict_json import read_fields
from steering.tensor_file import MAX_HEADER_BYTES, check_entries, read_header, write_header

SUFFIX = ".safetensors"

_METADATA = "__metadata__"
_PIECE = 2**18
_MAGIC = {
    b"GGUF": "a GGUF file: make a pack of it with `unsway packs import`",
    b"PK": "a zip archive, such as PyTorch and numpy write",
    b"\x93NUMPY": "an array of numpy",
    b"\x80": "a pickle, which is a program and is never opened",
    b"\x1f\x8b": "compressed",
    b"{": "JSON: a pack needs its tensors",
}


@dataclass(frozen=True)
class OneFile:
    """A pack that is being sent. Closed once `pieces` has come to its end."""

    digest: str
    size: int
    head: bytes
    data: BinaryIO
    """Of the tensors; a file that is replaced meanwhile stays open as it was."""

    def pieces(self) -> Iterator[bytes]:
        with self.data:
            yield self.head
            while piece := self.data.read(_PIECE):
                yield piece


def pack_in_one_file(folder: Path) -> OneFile:
    """Equal packs give equal bytes. Raises `PackError`."""
    data = _open(folder)
    try:
        header = read_header(data)
        check_entries(header)
        plain = write_header(header)
        if plain != _head_of(data):
            raise PackError(f"{TENSORS} has a header in a form of its own: load the pack and save it again.")
        document, digest = read_document(folder)
        texts = {name: read_file(folder, name).decode() for name in (DOCUMENT, CARD)}
        head = write_header({_METADATA: texts, **header})
        if len(head) - 8 > MAX_HEADER_BYTES:
            raise PackError(
                f"{DOCUMENT} and {CARD} of {document['name']} take {len(head)} bytes in one file; "
                f"at most {MAX_HEADER_BYTES} are read."
            )
        size = os.fstat(data.fileno()).st_size - len(plain) + len(head)
        return OneFile(digest, size, head, data)
    except UnicodeDecodeError as error:
        data.close()
        raise PackCorrupt("the pack has a text that is not UTF-8.") from error
    except BaseException:
        data.close()
        raise


@contextmanager
def unpacked(file: Path, place: Path, model: LanguageModel | None) -> Iterator[tuple[Path, Pack]]:
    """(its folder, not yet at `place` but beside it; the pack, loaded from there), gone at the end if not moved.

    Raises `PackCorrupt` and `PackModelMismatch`, and OSError where it cannot be written.
    """
    new = beside(place, "new")
    new.mkdir(parents=True)
    try:
        with file.open("rb") as source:
            _unpack(source, new)
        pack = load_pack(new, model)
        if pack.name != place.name:
            raise PackCorrupt(f"the pack in the file is named {pack.name}, not {place.name[:80]}.")
        yield new, pack
    finally:
        shutil.rmtree(new, ignore_errors=True)


def save_unpacked(file: Path, place: Path, model: LanguageModel | None) -> Pack:
    """Writes or replaces the pack's folder as a whole. Raises `PackError`."""
    check_place(place)
    with unpacked(file, place, model) as (new, pack):
        replace_folder(new, place)
    return pack


def is_pack_file(file: Path) -> bool:
    """Whether it looks like a tensor file."""
    with file.open("rb") as source:
        return _looks_like_tensors(source.read(9))


def _unpack(source: BinaryIO, folder: Path) -> None:
    _check_format(source)
    header = read_header(source)
    texts = header.pop(_METADATA, None)
    check_entries(header)
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise TensorFileCorrupt(
            "a tensor file without a pack in its metadata; `unsway packs export NAME --format safetensors` makes one."
        )
    read_fields(texts, "metadata", {DOCUMENT: str, CARD: str})
    for name in (DOCUMENT, CARD):
        write_durably(folder / name, texts[name].encode())
    with durable(folder / TENSORS) as target:
        target.write(write_header(header))
        shutil.copyfileobj(source, target, _PIECE)


def _check_format(source: BinaryIO) -> None:
    start = source.read(9)
    if _looks_like_tensors(start):
        return
    what = next((what for magic, what in _MAGIC.items() if start.startswith(magic)), None)
    if what is not None:
        raise UnsupportedFile(f"the file is {what}. A pack is sent as the safetensors file that `packs export` writes.")
    if len(start) == 9 and not start.endswith(b"{"):
        raise UnsupportedFile("the file is no safetensors file: `unsway packs export NAME --format safetensors`.")


def _looks_like_tensors(start: bytes) -> bool:
    """The length of a header that may be read, and its first character."""
    return len(start) == 9 and int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES and start.endswith(b"{")


def _open(folder: Path) -> BinaryIO:
    try:
        return (folder / TENSORS).open("rb")
    except OSError as error:
        raise PackCorrupt(f"{TENSORS} cannot be read ({error.strerror}).") from error


def _head_of(data: BinaryIO) -> bytes:
    """What comes before the data, of a file that stands there, and does again."""
    length = data.tell()
    data.seek(0)
    return data.read(length)
