"""Folders of uploads, opened as a server opens them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from steering.pack_folder import PackFolder
from steering.store import PackStore
from steering.uploads import Quota, Uploads, Writer
from tests.models import tiny_model
from tests.one_file import full, simple

Sent = Callable[[bytes], Path]
"""Makes a file of what was sent."""

MODEL = tiny_model()
A, B, ADMIN = Writer("key:a", is_admin=False), Writer("key:b", is_admin=False), Writer("key:c", is_admin=True)
AMPLE = Quota(packs=100, size=2**30, packs_each=100, size_each=2**30)
ONE, ONE_DIGEST = simple(MODEL)
TWO, TWO_DIGEST = full(MODEL)


@contextmanager
def opened(folder: Path, *, packs: Path | None = None, quota: Quota = AMPLE) -> Iterator[tuple[Uploads, PackStore]]:
    locked = PackFolder(folder)
    store = PackStore(packs, MODEL)
    uploads = Uploads(locked, store, MODEL, quota)
    try:
        yield uploads, store
    finally:
        uploads.close()


def names(folder: Path) -> list[str]:
    """Of all there is in it, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


def all_in_place(folder: Path) -> bool:
    """Nothing hidden is left but the lock."""
    return [name for name in names(folder) if name.startswith(".")] == [".lock"]
