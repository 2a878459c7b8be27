"""L4: killed at any step of a change, a folder is old or new after the next start, never a mix, and nothing is left."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from steering import durable
from steering.durable import beside, clear_leftovers, remove_folder, replace_folder, replacing, write_durably

STEPS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")
"""Calls of the system that change what is on the disk, or make it last."""


class Killed(BaseException):
    """No handler catches it, and after it no call gets through: nobody cleans up."""


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """The process is dead from that step on. Yields whether it came to it."""
    count, reached = itertools.count(), False

    def wrapped(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal reached
            if next(count) >= step:
                reached = True
                raise Killed
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, wrapped(getattr(os, name)))
        with suppress(Killed):
            yield lambda: reached


def make(folder: Path, content: str) -> Path:
    folder.mkdir()
    for name in ("a", "b"):
        write_durably(folder / name, content.encode())
    return folder


def content(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.iterdir()}


def every_step(change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One folder a step, in which `change` was killed there, as the next start leaves it; the last one was not."""
    for step in itertools.count():
        folder = tmp_path / str(step)
        folder.mkdir()
        make(folder / "place", "old")
        with killed_at(step, monkeypatch) as reached:
            change(folder)
        clear_leftovers(folder)
        assert [path.name for path in folder.iterdir()] in (["place"], [])
        yield folder
        if not reached():
            return


def test_L4_replacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(folder: Path) -> None:
        replace_folder(make(beside(folder / "place", "new"), "new"), folder / "place")

    found = [content(folder / "place") for folder in every_step(change, tmp_path, monkeypatch)]
    assert found[0] == {"old"} and found[-1] == {"new"} and len(found) >= 9
    first = found.index({"new"})
    assert found == [{"old"}] * first + [{"new"}] * (len(found) - first)


def test_L4_replacing_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list[str]()
    for step in range(6):  # mkdir, fsync, replace, fsync, unlink, none
        (folder := tmp_path / str(step)).mkdir()
        (folder / "place").write_text("old")
        with killed_at(step, monkeypatch), replacing(folder / "place") as new:
            new.write_text("new")
        clear_leftovers(folder)
        assert [path.name for path in folder.iterdir()] == ["place"]
        found.append((folder / "place").read_text())
    assert found == ["old"] * 3 + ["new"] * 3


def test_a_file_that_is_not_written_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "place").write_text("old")
    with pytest.raises(ValueError), replacing(tmp_path / "place") as new:
        new.write_text("ne")
        raise ValueError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_L4_removing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = every_step(lambda folder: remove_folder(folder / "place"), tmp_path, monkeypatch)
    there = [content(folder / "place") if (folder / "place").exists() else None for folder in folders]
    assert there[0] == {"old"} and there[-1] is None and len(there) >= 5
    assert there == sorted(there, key=lambda found: found is None)


def test_L4_killed_while_it_clears_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in itertools.count():
        folder = tmp_path / str(step)
        folder.mkdir()
        make(beside(folder / "place", "old"), "old")
        make(beside(folder / "place", "new"), "new")
        with killed_at(step, monkeypatch) as reached:
            clear_leftovers(folder)
        clear_leftovers(folder)
        assert [path.name for path in folder.iterdir()] == ["place"] and content(folder / "place") == {"old"}
        if not reached():
            break
    assert step >= 5


@pytest.mark.parametrize("step", range(4))
def test_what_fails_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """An error of the system, once: the process lives, and takes back what it began."""
    make(tmp_path / "place", "old")
    new = make(beside(tmp_path / "place", "new"), "new")
    count = itertools.count()

    def failing(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            if next(count) == step:
                raise OSError("no")
            return real(*args)

        return call

    for name in ("fsync", "rename"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    with pytest.raises(OSError, match="no"):
        replace_folder(new, tmp_path / "place")
    assert content(tmp_path / "place") == {"old"} and content(new) == {"new"}
    assert {path.name for path in tmp_path.iterdir()} == {"place", new.name}


def test_what_cannot_be_deleted_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "place", "old")

    def rmtree(*_: object, ignore_errors: bool) -> None:
        assert ignore_errors

    with monkeypatch.context() as patch:
        patch.setattr(durable.shutil, "rmtree", rmtree)
        replace_folder(make(beside(tmp_path / "place", "new"), "new"), tmp_path / "place")
        remove_folder(tmp_path / "place")
    assert len(list(tmp_path.iterdir())) == 2
    clear_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_own_leftovers_are_cleared(tmp_path: Path) -> None:
    kept = [".lock", ".git", ".place.new", ".place.12345678.tmp", "place.12345678.new"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".upload.12345678.part").write_bytes(b"half")
    (tmp_path / ".place.0a0b0c0d.new").symlink_to(tmp_path / ".git")
    clear_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
