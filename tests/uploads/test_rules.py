"""Uploads: who may write which name, on what condition, how much; and what goes on meanwhile."""

from __future__ import annotations

import gc
import shutil
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from steering.errors import (
    NotPackOwner,
    PackChanged,
    PackError,
    PackExists,
    PackNotFound,
    PackQuotaExceeded,
    PackReadOnly,
)
from steering.pack import Overrides, save_pack
from steering.uploads import Quota
from tests.one_file import full, simple
from tests.packs import simple_pack
from tests.uploads.folders import (
    ADMIN,
    MODEL,
    ONE,
    ONE_DIGEST,
    TWO,
    TWO_DIGEST,
    A,
    B,
    Sent,
    all_in_place,
    names,
    opened,
)


def test_a_pack_comes_changes_and_goes(folder: Path, sent: Sent) -> None:
    with opened(folder) as (uploads, store):
        made = uploads.put("mine", sent(ONE), A, "absent")
        assert store.get("mine") is made and made.digest == ONE_DIGEST and "mine" in uploads
        replaced = uploads.put("mine", sent(TWO), A, frozenset({ONE_DIGEST}))
        assert store.get("mine") is replaced and replaced.digest == TWO_DIGEST
        assert store.folder("mine") == folder / "mine" and all_in_place(folder)
    with opened(folder) as (uploads, store):
        assert store.get("mine").digest == TWO_DIGEST  # as the next start reads it
        uploads.delete("mine", A)
        assert store.entry("mine") is None and "mine" not in uploads and all_in_place(folder)
        with pytest.raises(PackNotFound):
            uploads.delete("mine", A)
    with opened(folder) as (_, store):
        assert store.entries() == []


def test_conditions(folder: Path, sent: Sent) -> None:
    with opened(folder) as (uploads, store):
        for expected in ("present", frozenset({ONE_DIGEST})):
            with pytest.raises(PackChanged, match="there is no profile mine"):
                uploads.put("mine", sent(ONE), A, expected)
        uploads.put("mine", sent(ONE), A, "absent")
        with pytest.raises(PackExists, match=f"mine@{ONE_DIGEST[:12]}"):
            uploads.put("mine", sent(TWO), A, "absent")
        for stale in (frozenset({TWO_DIGEST}), frozenset[str]()):
            with pytest.raises(PackChanged, match=f"mine@{ONE_DIGEST[:12]}"):
                uploads.put("mine", sent(TWO), A, stale)
            with pytest.raises(PackChanged):
                uploads.delete("mine", A, stale)
        assert store.get("mine").digest == ONE_DIGEST
        assert uploads.put("mine", sent(TWO), A, "present").digest == TWO_DIGEST
        uploads.delete("mine", A, frozenset({ONE_DIGEST, TWO_DIGEST}))


def race(work: Callable[[], object], count: int = 6) -> list[str]:
    """How each of so many threads ended."""
    ended, start = list[str](), threading.Barrier(count)

    def run() -> None:
        start.wait(10)
        try:
            work()
            ended.append("done")
        except PackError as error:
            ended.append(type(error).__name__)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return sorted(ended)


def test_T21_T22_of_many_at_once_one_wins(folder: Path, sent: Sent) -> None:
    with opened(folder) as (uploads, store):
        made = race(lambda: uploads.put("mine", sent(ONE), A, "absent"))
        assert made == ["PackExists"] * 5 + ["done"]
        changed = race(lambda: uploads.put("mine", sent(TWO), A, frozenset({ONE_DIGEST})))
        assert changed == ["PackChanged"] * 5 + ["done"] and store.get("mine").digest == TWO_DIGEST
        gone = race(lambda: uploads.delete("mine", A))
        assert gone == ["PackNotFound"] * 5 + ["done"] and all_in_place(folder)


def test_U6_only_its_owner_or_an_admin_writes_a_pack(folder: Path, sent: Sent) -> None:
    with opened(folder) as (uploads, _):
        uploads.put("mine", sent(ONE), A, "absent")
        with pytest.raises(NotPackOwner):
            uploads.put("mine", sent(TWO), B, "present")
        with pytest.raises(NotPackOwner):
            uploads.delete("mine", B)
        with pytest.raises(PackExists):  # that there is one, everybody may see
            uploads.put("mine", sent(TWO), B, "absent")
    with opened(folder) as (uploads, _):  # owners outlive the process
        with pytest.raises(NotPackOwner):
            uploads.delete("mine", B)
        uploads.put("mine", sent(TWO), ADMIN, "present")
        uploads.put("mine", sent(ONE), A, "present")  # it stays A's
        (folder / "mine" / "owner.json").write_text("{")
    with opened(folder) as (uploads, _):
        with pytest.raises(NotPackOwner):  # nobody's now
            uploads.delete("mine", A)
        uploads.delete("mine", ADMIN)


def test_what_the_operator_put_elsewhere_stays(folder: Path, sent: Sent, tmp_path: Path) -> None:
    save_pack(simple_pack(MODEL, name="mine"), tmp_path / "packs" / "mine")
    with opened(folder, packs=tmp_path / "packs") as (uploads, store):
        with pytest.raises(PackExists):
            uploads.put("mine", sent(TWO), ADMIN, "absent")
        with pytest.raises(PackReadOnly, match="came with the server"):
            uploads.put("mine", sent(TWO), ADMIN, "present")
        with pytest.raises(PackReadOnly, match="came with the server"):
            uploads.delete("mine", ADMIN)
        assert store.get("mine").digest == ONE_DIGEST and "mine" not in uploads
    save_pack(simple_pack(MODEL, name="mine"), folder / "mine")
    with pytest.raises(PackError, match="both have a pack mine"), opened(folder, packs=tmp_path / "packs"):
        pass


def test_both_folders_may_be_one(folder: Path, sent: Sent) -> None:
    save_pack(simple_pack(MODEL, name="mine"), folder / "mine")
    with opened(folder, packs=folder) as (uploads, store):
        with pytest.raises(NotPackOwner):
            uploads.delete("mine", A)
        uploads.put("mine", sent(TWO), ADMIN, "present")
        assert store.get("mine").digest == TWO_DIGEST
        assert not (folder / "mine" / "owner.json").exists()  # whose it was: nobody's


def test_T15_quotas(folder: Path, sent: Sent) -> None:
    small, large = simple(MODEL, "small")[0], full(MODEL, "large")[0]
    with opened(folder, quota=Quota(packs=3, size=2**30, packs_each=2, size_each=2**30)) as (uploads, store):
        for name, by in (("a", A), ("b", A), ("c", B)):
            uploads.put(name, sent(simple(MODEL, name)[0]), by, "absent")
        with pytest.raises(PackQuotaExceeded, match="may be 3 profiles"):
            uploads.put("small", sent(small), B, "absent")
        uploads.put("a", sent(full(MODEL, "a")[0]), A, "present")  # no one more
        uploads.delete("c", B)
        with pytest.raises(PackQuotaExceeded, match="of one key may be 2 profiles"):
            uploads.put("small", sent(small), A, "absent")
        uploads.put("small", sent(small), B, "absent")
    shutil.rmtree(folder)
    size = len(large) + 5000
    with opened(folder, quota=Quota(packs=9, size=2**30, packs_each=9, size_each=size)) as (uploads, store):
        uploads.put("large", sent(large), A, "absent")
        with pytest.raises(PackQuotaExceeded, match=rf"of one key may take {size} bytes, and take \d+ without"):
            uploads.put("small", sent(full(MODEL, "small")[0]), A, "absent")
        assert store.names == ["large"] and names(folder) == [".lock", "large"]
        uploads.put("small", sent(small), B, "absent")
    tight, more = Quota(packs=9, size=size, packs_each=9, size_each=size), sent(full(MODEL, "more")[0])
    with opened(folder, quota=tight) as (uploads, _), pytest.raises(PackQuotaExceeded, match="all uploads together"):
        uploads.put("more", more, B, "absent")  # what lies there already counts


def test_T20_who_runs_keeps_what_it_began_with(folder: Path, sent: Sent) -> None:
    with opened(folder) as (uploads, store):
        uploads.put("mine", sent(ONE), A, "absent")
        plan = store.get("mine").plan(Overrides())
        uploads.put("mine", sent(TWO), A, "present")
        uploads.delete("mine", A)
        assert plan.profile == f"mine@{ONE_DIGEST[:12]}" and plan.corrections[0].edit.vector.sum() == 64


def test_R2_packs_that_went_are_freed_at_once(folder: Path, sent: Sent) -> None:
    """Not when the collector of cycles comes round: it counts objects, not gigabytes."""
    with opened(folder) as (uploads, store):
        gc.collect()
        gc.disable()
        try:
            gone = []
            for raw in (ONE, TWO):
                pack = uploads.put("mine", sent(raw), A, "absent" if raw is ONE else "present")
                assert pack.plan(Overrides()).acts
                gone += [weakref.ref(pack), weakref.ref(pack.all_corrections[0].edit)]
                del pack
            assert gone[0]() is None and gone[1]() is None and gone[2]() is store.get("mine")
            uploads.delete("mine", A)
            assert [ref() for ref in gone] == [None] * 4
        finally:
            gc.enable()


def test_R2_nothing_piles_up(folder: Path, sent: Sent) -> None:
    file = sent(ONE)
    with opened(folder) as (uploads, store):
        before = len(names(Path("/proc/self/fd"))) if sys.platform == "linux" else 0
        for _ in range(200):
            uploads.put("mine", file, A, "absent")
            uploads.delete("mine", A)
        assert names(folder) == [".lock"] and store.entries() == []
        assert sys.platform != "linux" or len(names(Path("/proc/self/fd"))) == before
