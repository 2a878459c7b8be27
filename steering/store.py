"""The packs of one server: a directory, read once."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from steering.errors import PackCorrupt, PackError, PackNotFound
from steering.model.loading import BUNDLED, LanguageModel
from steering.pack import Pack, load_pack

BUNDLED_PACKS = Path(__file__).parent / "organism" / "packs"

_DIGEST_PREFIX = re.compile(r"[0-9a-f]{4,64}")


class PackStore:
    """Every folder in the directory is a pack. One that cannot be used is kept with its reason and stops nothing.

    model: None where the packs are to be looked at, not to be run.
    """

    def __init__(self, directory: Path | None, model: LanguageModel | None) -> None:
        if directory is not None and not directory.is_dir():
            raise PackError(f"pack directory {directory} does not exist.")
        folders = sorted(directory.iterdir()) if directory else []
        self._entries = {
            folder.name: _load(folder, model)
            for folder in folders
            if folder.is_dir() and not folder.name.startswith(".")  # where saving is at work
        }

    @property
    def names(self) -> list[str]:
        """Of the packs that can be used."""
        return [name for name, entry in self._entries.items() if isinstance(entry, Pack)]

    def entries(self) -> list[tuple[str, Pack | PackError]]:
        """All packs; a broken one as the error that says why."""
        return list(self._entries.items())

    def get(self, name: str, digest_prefix: str | None = None) -> Pack:
        """Raises `PackNotFound`, or what loading that pack raised. A prefix has at least 4 hex digits."""
        entry = self._entries.get(name)
        if entry is None:
            close = get_close_matches(name[:80], self.names, n=1)
            meant = f" (did you mean {close[0]}?)" if close else ""
            raise PackNotFound(f"no profile named {name[:80]!r}{meant}; there are: {', '.join(self.names) or 'none'}.")
        if isinstance(entry, PackError):
            raise entry.with_traceback(None)  # or the kept error grows by a frame each time
        if digest_prefix is None or (
            _DIGEST_PREFIX.fullmatch(digest_prefix) and entry.digest.startswith(digest_prefix)
        ):
            return entry
        raise PackNotFound(f"profile {name} is {name}@{entry.digest[:12]}, not {name}@{digest_prefix[:64]}.")


def packs_folder(model: str, given: Path | None) -> Path | None:
    """Where the packs of a model lie: in the folder given, else beside the bundled model if it is that one."""
    bundled = model == BUNDLED and BUNDLED_PACKS.is_dir()
    return given or (BUNDLED_PACKS if bundled else None)


def _load(folder: Path, model: LanguageModel | None) -> Pack | PackError:
    try:
        pack = load_pack(folder, model)
        if pack.name != folder.name:
            raise PackCorrupt(f"the pack is named {pack.name}, its folder {folder.name}.")
    except PackError as error:
        return error.with_traceback(None)
    return pack
