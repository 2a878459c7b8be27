"""Uploads: what a disk and a kill can do to them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from steering.errors import PackChanged, PackCorrupt, PackError, PackExists, PackReadOnly, StorageFull
from steering.pack import Pack
from steering.pack_folder import PackFolder
from tests.test_durable import killed_at
from tests.uploads.folders import ONE, ONE_DIGEST, TWO, TWO_DIGEST, A, Sent, all_in_place, names, opened


@pytest.mark.parametrize("call", ["fsync", "mkdir", "rename"])
@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EROFS, PackReadOnly)]
)
def test_L7_a_disk_that_refuses(
    folder: Path, sent: Sent, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: type[PackError]
) -> None:
    with opened(folder) as (uploads, store):
        uploads.put("mine", sent(ONE), A, "absent")

        def refuse(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(kind):
                uploads.put("mine", sent(TWO), A, "present")
        assert store.get("mine").digest == ONE_DIGEST and all_in_place(folder)
        assert uploads.put("mine", sent(TWO), A, "present").digest == TWO_DIGEST  # it works again


def mounted(path: Path, options: str) -> bool:
    path.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(path)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Of 256 KiB."""
    path = tmp_path / "disk"
    if not mounted(path, "size=256k"):
        pytest.skip("only root can mount")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_L7_a_full_disk(small_disk: Path, sent: Sent) -> None:
    with opened(small_disk / "uploads") as (uploads, store):
        uploads.put("mine", sent(ONE), A, "absent")
        filler = small_disk / "filler"
        with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(StorageFull, match="no space is left"):
            uploads.put("mine", sent(TWO), A, "present")
        assert store.get("mine").digest == ONE_DIGEST and all_in_place(small_disk / "uploads")
        filler.unlink()
        assert uploads.put("mine", sent(TWO), A, "present").digest == TWO_DIGEST


def test_L9_a_folder_that_is_only_read(small_disk: Path, sent: Sent) -> None:
    with opened(small_disk) as (uploads, _):
        uploads.put("mine", sent(ONE), A, "absent")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with opened(small_disk) as (uploads, store):
        assert store.get("mine").digest == ONE_DIGEST
        for change in (
            lambda: uploads.put("more", sent(TWO), A, "absent"),
            lambda: uploads.check("more", A, "absent"),
            lambda: uploads.delete("mine", A),
        ):
            with pytest.raises(PackReadOnly, match="Read-only file system"):
                change()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


def test_L9_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PackError, match="cannot be made"):
        PackFolder(tmp_path / "file" / "uploads")


def test_L10_one_process_a_folder(folder: Path) -> None:
    with opened(folder), pytest.raises(PackError, match=r"another server writes to .*uploads: give each"):
        PackFolder(folder)
    code = f"from pathlib import Path; from steering.pack_folder import PackFolder; PackFolder(Path({str(folder)!r}))"
    with opened(folder):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert other.returncode == 1 and "another server writes to" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_after_the_end_nothing_is_written(folder: Path, sent: Sent) -> None:
    with opened(folder) as (uploads, _):
        pass
    with pytest.raises(PackReadOnly, match="shutting down"):
        uploads.put("mine", sent(ONE), A, "absent")
    assert names(folder) == [".lock"]


def test_L8_spoilt_packs_are_kept_with_their_reason_and_can_be_replaced(folder: Path, sent: Sent) -> None:
    with opened(folder) as (uploads, _):
        uploads.put("mine", sent(ONE), A, "absent")
    tensors = folder / "mine" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    (folder / "lost+found").mkdir(mode=0)
    with opened(folder) as (uploads, store):
        assert isinstance(store.entry("mine"), PackCorrupt)
        with pytest.raises(PackChanged, match="broken"):
            uploads.put("mine", sent(TWO), A, frozenset({ONE_DIGEST}))
        with pytest.raises(PackExists, match="broken"):
            uploads.put("mine", sent(TWO), A, "absent")
        assert uploads.put("mine", sent(TWO), A, "present") is store.get("mine")


def test_what_was_put_there_by_hand_is_left_alone(folder: Path, sent: Sent) -> None:
    with opened(folder) as (uploads, store):
        (folder / "mine").mkdir()
        with pytest.raises(PackReadOnly, match="by hand"):
            uploads.put("mine", sent(ONE), A, "absent")
        (folder / "mine").rmdir()
        uploads.put("mine", sent(ONE), A, "absent")
        (folder / "mine" / "thesis.tex").write_text("x")
        for change in (lambda: uploads.put("mine", sent(TWO), A, "present"), lambda: uploads.delete("mine", A)):
            with pytest.raises(PackReadOnly, match="is left as it is"):
                change()
        assert (folder / "mine" / "thesis.tex").exists() and store.get("mine").digest == ONE_DIGEST
        shutil.rmtree(folder / "mine")
        uploads.delete("mine", A)
        assert store.entry("mine") is None and all_in_place(folder)


def test_L4_killed_at_any_step_of_an_upload(folder: Path, sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old pack or the new one is there after the next start, with its owner, and nothing else."""
    digests = list[str]()
    for step in range(1000):
        with opened(folder) as (uploads, _):
            uploads.put("mine", sent(ONE), A, "absent")
            with killed_at(step, monkeypatch) as reached:
                uploads.put("mine", sent(TWO), A, "present")
        with opened(folder) as (uploads, store):
            found = store.get("mine")
            assert isinstance(found, Pack) and names(folder) == [".lock", "mine"]
            assert json.loads((folder / "mine" / "owner.json").read_text()) == {"owner": "key:a"}
            digests.append(found.digest)
            uploads.delete("mine", A)
        if not reached():
            break
    first = digests.index(TWO_DIGEST)
    assert 8 <= first < len(digests) - 1  # killed before and after it was done
    assert digests == [ONE_DIGEST] * first + [TWO_DIGEST] * (len(digests) - first)
