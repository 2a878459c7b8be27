"""Files and folders that are old or new, never a mix: written beside their place, made durable, renamed.

A process that is killed meanwhile leaves hidden names behind, and each says what is to be done with it:
`clear_leftovers`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

Kind = Literal["new", "part", "old", "gone"]
"""new, part: not in place yet; old: what stood there, until the new one does; gone: on its way out."""

_HIDDEN = re.compile(r"\.(?P<place>.+)\.[0-9a-f]{8}\.(?P<kind>new|part|old|gone)")


def beside(place: Path, kind: Kind) -> Path:
    """A free hidden name in the same folder."""
    return place.with_name(f".{place.name}.{secrets.token_hex(4)}.{kind}")


@contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    """A new file that is on the disk when the block ends."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_durably(path: Path, raw: bytes) -> None:
    with durable(path) as file:
        file.write(raw)


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """A free hidden name for a file that takes the place, durably, when the block ends; one that fails leaves all as it
    was."""
    place.parent.mkdir(parents=True, exist_ok=True)
    new = beside(place, "new")
    try:
        yield new
        _sync(new)
        new.replace(place)
        _sync(place.parent)
    finally:
        new.unlink(missing_ok=True)


def replace_folder(new: Path, place: Path) -> None:
    """Puts `new`, whose files are durable, where `place` stood or nothing did. What fails leaves all as it was."""
    _sync(new)
    old = beside(place, "old")
    replaces = place.exists()
    if replaces:
        place.rename(old)
    try:
        new.rename(place)
        _sync(place.parent)
    except BaseException:
        if not new.exists():
            place.rename(new)
        if replaces:
            old.rename(place)
        raise
    if replaces:
        _discard(old)


def remove_folder(place: Path) -> None:
    """Gone at once, as a whole; what fails leaves it as it was."""
    gone = beside(place, "gone")
    place.rename(gone)
    try:
        _sync(place.parent)
    except BaseException:
        gone.rename(place)
        raise
    shutil.rmtree(gone, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Of processes that were killed: what stood in a place that is empty now comes back, the rest goes."""
    for path in sorted(folder.iterdir()):
        match = _HIDDEN.fullmatch(path.name)
        if match is None:
            continue
        place = folder / match["place"]
        if match["kind"] == "old" and not place.exists():
            path.rename(place)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    _sync(folder)


def _discard(old: Path) -> None:
    """What cannot be deleted now must not come back: it goes at the next start."""
    with suppress(OSError):
        old = old.rename(old.with_suffix(".gone"))
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Makes a file, or the names in a folder, durable, where both can be opened for that (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
