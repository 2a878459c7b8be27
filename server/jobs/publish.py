"""Where what a calibration made becomes profiles of the running server: by way of its uploads, as if it were sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from server.jobs.job import Asked, Job
from server.serving import Served
from steering.errors import PackError
from steering.one_file import pack_in_one_file
from steering.pack import Pack
from steering.store import PackStore
from steering.uploads import Expected, Uploads, Writer

Audit = Callable[..., None]
"""`AuditLog.write`, from any thread."""


def check_free(name: str, owner: str, served: Served, *, replace: bool) -> None:
    """Raises what would be raised in the end: the name is taken, or not the owner's, or there is no place left."""
    if served.uploads is not None:
        served.uploads.check(name, _writer(owner), _expected(name, served, replace=replace))


def publish(packs: Path, job: Job, served: Served, audit: Audit) -> list[dict[str, Any]]:
    """What is in the folder, and as what it is served; or why it is not. Done again it changes nothing."""
    made = [(name, pack) for name, pack in PackStore(packs, served.model).entries()]
    return [_published(packs / name, pack, job, served, audit) for name, pack in made]


def _published(folder: Path, pack: Pack | PackError, job: Job, served: Served, audit: Audit) -> dict[str, Any]:
    if isinstance(pack, PackError):
        raise pack
    told: dict[str, Any] = {"name": pack.name, "digest": pack.digest, "observe_only": pack.observe_only}
    if served.uploads is None:
        return told | {"published": False, "reason": "the server keeps no uploads: start it with --uploads FOLDER."}
    known = served.store.entry(pack.name)
    if isinstance(known, Pack) and known.digest == pack.digest:
        return told | {"published": True}
    try:
        _put(folder, pack.name, job.asked, served, served.uploads)
    except PackError as error:
        return told | {"published": False, "reason": str(error)}
    whose, _, who = job.asked.owner.partition(":")  # `key:` or `address:`
    audit("profile_put", profile=pack.name, digest=pack.digest, job=job.id, **{whose: who})
    return told | {"published": True}


def _put(folder: Path, name: str, asked: Asked, served: Served, uploads: Uploads) -> None:
    part = uploads.folder.part()
    try:
        with uploads.folder.writing(), part.open("xb") as file:
            for piece in pack_in_one_file(folder).pieces():
                file.write(piece)
        uploads.put(name, part, _writer(asked.owner), _expected(name, served, replace=asked.parameters["replace"]))
    finally:
        part.unlink(missing_ok=True)


def _expected(name: str, served: Served, *, replace: bool) -> Expected:
    return "present" if replace and served.store.entry(name) is not None else "absent"


def _writer(owner: str) -> Writer:
    """A job has the rights of its owner, not of the server."""
    return Writer(owner, is_admin=False)
