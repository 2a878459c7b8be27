"""The store: read once, never stopped by a broken pack, strict about names and digests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from steering.errors import PackCorrupt, PackError, PackModelMismatch, PackNotFound
from steering.pack import Pack, save_pack
from steering.store import PackStore
from tests.models import tiny_model
from tests.packs import full_pack, observing_pack, simple_pack

MODEL = tiny_model()


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    for make in (full_pack, simple_pack, observing_pack):
        pack = make(MODEL)
        save_pack(pack, tmp_path / pack.name)
    return tmp_path


def test_finds_all_packs(packs: Path) -> None:
    (packs / "README.md").write_text("not a pack")
    shutil.copytree(packs / "full", packs / ".full.12345678.new")
    store = PackStore(packs, MODEL)
    assert store.names == ["full", "simple", "watch"]
    assert [(name, type(entry)) for name, entry in store.entries()] == [(name, Pack) for name in store.names]
    assert store.get("full").name == "full"


def test_reads_once(packs: Path) -> None:
    store = PackStore(packs, MODEL)
    first = store.get("full")
    shutil.rmtree(packs / "full")
    assert store.get("full") is first


def test_no_directory_means_no_packs(tmp_path: Path) -> None:
    assert PackStore(None, MODEL).entries() == []
    with pytest.raises(PackError, match="does not exist"):
        PackStore(tmp_path / "nowhere", MODEL)


def test_T4_unknown_name_lists_the_known(packs: Path) -> None:
    for name in ("candid", "../full", "full/../simple", "FULL", "", "full\0", "x" * 300):
        with pytest.raises(PackNotFound, match="there are: full, simple, watch"):
            PackStore(packs, MODEL).get(name)


def test_digest_prefix(packs: Path) -> None:
    store = PackStore(packs, MODEL)
    digest = store.get("full").digest
    for length in (4, 12, 64):
        assert store.get("full", digest[:length]) is store.get("full")
    wrong = ("0" if digest[0] != "0" else "1") + digest[1:12]
    for prefix in ("", digest[:3], wrong, digest + "0", digest[:8].upper() + "G", f"{digest[:4]}\n", "...."):
        with pytest.raises(PackNotFound, match=f"full@{digest[:12]}, not full@"):
            store.get("full", prefix)


def test_L8_broken_packs_stop_nothing(packs: Path) -> None:
    (packs / "full" / "tensors.safetensors").write_bytes(b"")
    (packs / "empty").mkdir()
    save_pack(simple_pack(tiny_model("qwen3"), name="foreign"), packs / "foreign")
    (packs / "simple").rename(packs / "renamed")
    store = PackStore(packs, MODEL)
    assert store.names == ["watch"]
    assert {name: type(entry) for name, entry in store.entries()} == {
        "empty": PackCorrupt,
        "foreign": PackModelMismatch,
        "full": PackCorrupt,
        "renamed": PackCorrupt,
        "watch": Pack,
    }
    for name, expected in {"full": "tensors.safetensors", "empty": "pack.json", "renamed": "is named simple"}.items():
        with pytest.raises(PackCorrupt, match=expected):
            store.get(name)
    with pytest.raises(PackModelMismatch):
        store.get("foreign")


def test_L8_a_kept_error_does_not_grow(packs: Path) -> None:
    (packs / "full" / "CARD.md").unlink()
    store = PackStore(packs, MODEL)
    depths = set()
    for _ in range(3):
        with pytest.raises(PackCorrupt) as caught:
            store.get("full")
        depths.add(len(caught.traceback))
    assert len(depths) == 1
