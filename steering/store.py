"""The packs of one process: read once from a folder, and changed by nobody but who keeps uploads."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from steering.errors import PackCorrupt, PackError, PackNotFound
from steering.model.loading import BUNDLED, LanguageModel
from steering.pack import Pack, load_pack

BUNDLED_PACKS = Path(__file__).parent / "organism" / "packs"

_DIGEST_PREFIX = re.compile(r"[0-9a-f]{4,64}")


@dataclass(frozen=True)
class _Entry:
    folder: Path
    pack: Pack | PackError


class PackStore:
    """Every folder in the directory is a pack. One that cannot be used is kept with its reason and stops nothing.

    Any thread may read, and sees each change as a whole. What it got before stays as it was: packs are immutable.
    model: None where the packs are to be looked at, not to be run.
    """

    def __init__(self, directory: Path | None, model: LanguageModel | None) -> None:
        self._model = model
        self._directory = directory and directory.resolve()
        self._changing = threading.Lock()
        self._entries: dict[str, _Entry] = _read(directory, model) if directory else {}
        """Never changed, only replaced."""

    @property
    def names(self) -> list[str]:
        """Of the packs that can be used."""
        return [name for name, entry in self.entries() if isinstance(entry, Pack)]

    def entries(self) -> list[tuple[str, Pack | PackError]]:
        """All packs; a broken one as the error that says why."""
        return [(name, entry.pack) for name, entry in self._entries.items()]

    def entry(self, name: str) -> Pack | PackError | None:
        """One of `entries`; None if there is none of that name."""
        entry = self._entries.get(name)
        return None if entry is None else entry.pack

    def folder(self, name: str) -> Path:
        """Where its files lie. Raises `PackNotFound`."""
        if name not in self._entries:
            raise self._not_found(name)
        return self._entries[name].folder

    def get(self, name: str, digest_prefix: str | None = None) -> Pack:
        """Raises `PackNotFound`, or what loading that pack raised. A prefix has at least 4 hex digits."""
        entry = self.entry(name)
        if entry is None:
            raise self._not_found(name)
        if isinstance(entry, PackError):
            raise entry.with_traceback(None)  # or the kept error grows by a frame each time
        if digest_prefix is None or (
            _DIGEST_PREFIX.fullmatch(digest_prefix) and entry.digest.startswith(digest_prefix)
        ):
            return entry
        raise PackNotFound(f"profile {name} is {name}@{entry.digest[:12]}, not {name}@{digest_prefix[:64]}.")

    def read(self, directory: Path) -> None:
        """The packs of one more directory. Raises `PackError` where both have a name."""
        if directory.resolve() == self._directory:
            return
        entries = _read(directory, self._model)
        with self._changing:
            if both := sorted(entries.keys() & self._entries.keys()):
                raise PackError(f"{self._directory} and {directory} both have a pack {both[0]}: take one of them out.")
            self._entries = dict(sorted((self._entries | entries).items()))

    def put(self, folder: Path, pack: Pack) -> None:
        """Its name stands for it from now on."""
        with self._changing:
            self._entries = dict(sorted((self._entries | {pack.name: _Entry(folder, pack)}).items()))

    def remove(self, name: str) -> None:
        with self._changing:
            self._entries = {other: entry for other, entry in self._entries.items() if other != name}

    def _not_found(self, name: str) -> PackNotFound:
        names = self.names
        close = get_close_matches(name[:80], names, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        return PackNotFound(f"no profile named {name[:80]!r}{meant}; there are: {', '.join(names) or 'none'}.")


def packs_folder(model: str, given: Path | None) -> Path | None:
    """Where the packs of a model lie: in the folder given, else beside the bundled model if it is that one."""
    bundled = model == BUNDLED and BUNDLED_PACKS.is_dir()
    return given or (BUNDLED_PACKS if bundled else None)


def _read(directory: Path, model: LanguageModel | None) -> dict[str, _Entry]:
    if not directory.is_dir():
        raise PackError(f"pack directory {directory} does not exist.")
    return {
        folder.name: _Entry(folder, _load(folder, model))
        for folder in sorted(directory.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")  # where saving is at work
    }


def _load(folder: Path, model: LanguageModel | None) -> Pack | PackError:
    try:
        pack = load_pack(folder, model)
        if pack.name != folder.name:
            raise PackCorrupt(f"the pack is named {pack.name}, its folder {folder.name}.")
    except PackError as error:
        return error.with_traceback(None)
    return pack
