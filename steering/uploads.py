"""Uploads: packs that come and go while a server runs. Who may write which name, on what condition, and how much.

A pack is read whole and held against the model before anybody sees it; its name then stands for it at once, on the disk
first. Requests that run keep the pack they began with.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from steering.errors import (
    NotPackOwner,
    OverMemoryBudget,
    PackChanged,
    PackError,
    PackExists,
    PackQuotaExceeded,
    PackReadOnly,
)
from steering.model.loading import LanguageModel
from steering.one_file import unpacked
from steering.pack import Pack
from steering.pack_folder import Held, PackFolder, size_of
from steering.store import PackStore

Expected = frozenset[str] | Literal["absent", "present"]
"""What a writer takes a name to stand for: one of these digests, nothing, or something."""


@dataclass(frozen=True)
class Writer:
    """Who asks for a change."""

    owner: str
    is_admin: bool
    """May write what others uploaded, and what was there before."""


@dataclass(frozen=True)
class Quota:
    """The most there may be, in all and of one owner."""

    packs: int
    size: int
    """Bytes."""
    packs_each: int
    size_each: int


class Uploads:
    """The packs of one folder, which the store has too. Any thread may call."""

    def __init__(self, folder: PackFolder, store: PackStore, model: LanguageModel, quota: Quota) -> None:
        self.folder = folder
        self._store, self._model, self._quota = store, model, quota
        self._changing = threading.Lock()
        store.read(folder.path)
        self._held = folder.held()
        """Never changed, only replaced."""

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def check(self, name: str, by: Writer, expected: Expected, size: int = 0) -> None:
        """Whether `put` would be refused, as far as that is known before the pack is there. size: bytes."""
        if self.folder.refusal is not None:
            raise PackReadOnly(self.folder.refusal)
        entry = self._store.entry(name)
        if expected == "absent" and entry is not None:
            raise PackExists(f"there is a profile {_reference(name, entry)} already.")
        self._check_right(name, by)
        self._check_expected(name, expected)
        self._check_quota(name, by, size)

    def put(self, name: str, file: Path, by: Writer, expected: Expected) -> Pack:
        """Makes the pack in `file` the one of this name. Raises `PackError` of many kinds, and changes nothing then."""
        self.check(name, by, expected)
        try:
            with self.folder.writing(), unpacked(file, self.folder.path / name, self._model) as (new, pack):
                size = size_of(new)
                with self._changing:
                    self.check(name, by, expected, size)
                    self._check_place(name)
                    held = self._held.get(name, Held(by.owner, size))
                    self.folder.put(new, name, held.owner)
                    self._held = {**self._held, name: Held(held.owner, size)}
                    self._store.put(self.folder.path / name, pack)
        except torch.OutOfMemoryError as error:
            raise OverMemoryBudget("there is no memory for another profile.") from error
        return pack

    def delete(self, name: str, by: Writer, expected: Expected = "present") -> None:
        """Raises `PackError` of many kinds, and changes nothing then."""
        with self._changing, self.folder.writing():
            self._store.folder(name)  # is there one?
            self._check_right(name, by)
            self._check_expected(name, expected)
            self.folder.remove(name)
            self._held = {other: held for other, held in self._held.items() if other != name}
            self._store.remove(name)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Meanwhile nothing is changed: disk and store agree."""
        with self._changing:
            yield

    def close(self) -> None:
        """Waits for a change under way; there is none after it."""
        with self._changing:
            self.folder.close()

    def _check_right(self, name: str, by: Writer) -> None:
        if self._store.entry(name) is None:
            return
        if name not in self._held:
            raise PackReadOnly(f"profile {name} came with the server and cannot be changed here.")
        if not by.is_admin and self._held[name].owner != by.owner:
            raise NotPackOwner(f"profile {name} belongs to another key.")

    def _check_place(self, name: str) -> None:
        if name not in self._held and (self.folder.path / name).exists():
            raise PackReadOnly(f"{name} was put into the folder of uploads by hand: it is a profile after a restart.")

    def _check_expected(self, name: str, expected: Expected) -> None:
        entry = self._store.entry(name)
        if expected == "absent":
            return
        if entry is None:
            raise PackChanged(f"there is no profile {name}.")
        if expected != "present" and (isinstance(entry, PackError) or entry.digest not in expected):
            raise PackChanged(f"profile {_reference(name, entry)} is not what it is taken for.")

    def _check_quota(self, name: str, by: Writer, size: int) -> None:
        others = {other: held for other, held in self._held.items() if other != name}
        owner = self._held[name].owner if name in self._held else by.owner
        own = [held for held in others.values() if owner is not None and held.owner == owner]
        quota = self._quota
        for whose, held, packs, most in (
            ("all uploads together", list(others.values()), quota.packs, quota.size),
            ("all uploads of one key", own, quota.packs_each, quota.size_each),
        ):
            taken = sum(one.size for one in held)
            if len(held) >= packs:
                raise PackQuotaExceeded(f"{whose} may be {packs} profiles: delete one first.")
            if taken + size > most:
                raise PackQuotaExceeded(f"{whose} may take {most} bytes, and take {taken} without these {size}.")


def _reference(name: str, entry: Pack | PackError) -> str:
    return f"{name} (broken)" if isinstance(entry, PackError) else f"{name}@{entry.digest[:12]}"
