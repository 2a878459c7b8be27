"""A folder of packs that one process writes: locked, cleared up after a kill, each pack with whose it is."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from steering.durable import beside, clear_leftovers, remove_folder, replace_folder, write_durably
from steering.errors import PackError, PackReadOnly, StorageFull
from steering.pack_files import OWNER, may_be_replaced

_LOCK = ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class Held:
    """One pack of the folder, usable or not."""

    owner: str | None
    """Who uploaded it; None where it was put there otherwise."""
    size: int
    """Bytes of its files."""


class PackFolder:
    """Made where there is none. Raises `PackError` where another process writes it; where it cannot be written, it can
    be read all the same, and `refusal` says why."""

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PackError(f"the folder of uploads {path} cannot be made: {error.strerror}.") from error
        self.path = path
        self._lock = FileLock(path / _LOCK, thread_local=False)
        self.refusal = self._open()

    def _open(self) -> str | None:
        try:
            self._lock.acquire(timeout=0)
            clear_leftovers(self.path)
        except Timeout:
            raise PackError(f"another server writes to {self.path}: give each a folder of its own.") from None
        except OSError as error:
            return f"nothing can be uploaded: the server cannot write to its folder of uploads ({error.strerror})."
        return None

    def held(self) -> dict[str, Held]:
        """All packs in it, by name."""
        folders = [folder for folder in self.path.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
        return {folder.name: _held(folder) for folder in folders}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What the disk refuses is `StorageFull` or `PackReadOnly`."""
        if self.refusal is not None:
            raise PackReadOnly(self.refusal)
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise StorageFull("no space is left for uploads; nothing was changed.") from error
            if error.errno in _FORBIDDEN:
                raise PackReadOnly(f"the server cannot write to its folder of uploads ({error.strerror}).") from error
            raise

    def part(self) -> Path:
        """Where something may be put that is not whole yet."""
        return beside(self.path / "upload", "part")

    def put(self, new: Path, name: str, owner: str | None) -> None:
        """Moves a pack that was unpacked in this folder to its place."""
        self._check_place(name)
        if owner is not None:
            write_durably(new / OWNER, json.dumps({"owner": owner}).encode())
        replace_folder(new, self.path / name)

    def remove(self, name: str) -> None:
        self._check_place(name)
        if (self.path / name).exists():
            remove_folder(self.path / name)

    def _check_place(self, name: str) -> None:
        if not may_be_replaced(self.path / name):
            raise PackReadOnly(f"what lies in the place of {name} is no pack: it is left as it is.")

    def close(self) -> None:
        """Others may write it now; this process does no more."""
        self.refusal = "the server is shutting down."
        self._lock.release()


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _held(folder: Path) -> Held:
    size = 0
    with suppress(OSError):  # of a folder that is none of ours, such as lost+found
        size = size_of(folder)
    return Held(_owner(folder), size)


def _owner(folder: Path) -> str | None:
    """None too where the file is damaged: then nobody but who may write all packs writes this one."""
    with suppress(OSError, ValueError, RecursionError, KeyError, TypeError):
        owner = json.loads((folder / OWNER).read_bytes())["owner"]
        return owner if isinstance(owner, str) else None
    return None
