"""A pack in one file: out and in again is the identity, and nothing else comes in."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import zipfile
from pathlib import Path

import numpy
import pytest
import safetensors
import safetensors.torch
import torch

from steering.errors import (
    PackCorrupt,
    PackError,
    PackKeyUnknown,
    PackModelMismatch,
    TensorFileCorrupt,
    UnsupportedFile,
)
from steering.one_file import is_pack_file, pack_in_one_file, save_unpacked
from steering.pack import load_pack, save_pack
from steering.tensor_file import write_tensors
from tests.models import tiny_model
from tests.one_file import full, put_together, simple, taken_apart
from tests.packs import dola_pack, full_pack, observing_pack, simple_pack, tuned_pack

MODEL = tiny_model()
FILES = ("pack.json", "tensors.safetensors", "CARD.md")
PACKS = {"full": full_pack, "simple": simple_pack, "observing": observing_pack, "tuned": tuned_pack, "dola": dola_pack}


def unpack(raw: bytes, tmp_path: Path, name: str = "mine") -> str:
    (tmp_path / "file").write_bytes(raw)
    return save_unpacked(tmp_path / "file", tmp_path / name, MODEL).digest


@pytest.mark.parametrize("kind", PACKS)
def test_law_out_and_in_is_the_identity(tmp_path: Path, kind: str) -> None:
    pack = PACKS[kind](MODEL)
    folder = tmp_path / "packs" / pack.name
    saved = save_pack(pack, folder)
    file = pack_in_one_file(folder)
    raw = b"".join(file.pieces())
    assert (file.digest, file.size) == (saved.digest, len(raw)) and file.data.closed
    assert unpack(raw, tmp_path, saved.name) == saved.digest
    for name in FILES:
        assert (tmp_path / saved.name / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["file", "packs", saved.name])


def test_any_reader_of_safetensors_can_look_into_it(tmp_path: Path) -> None:
    raw, digest = full(MODEL)
    (tmp_path / "x.safetensors").write_bytes(raw)
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["pack.json"])["digest"] == digest
        assert opened.metadata()["CARD.md"].startswith("# mine")
        vector = opened.get_tensor("corrections.2.vector")
    tensors = safetensors.torch.load(raw)
    assert torch.equal(tensors["corrections.2.vector"], vector) and len(vector) == MODEL.layout.d_model


def test_what_another_writer_made_of_it_comes_in(tmp_path: Path) -> None:
    """The library's own, with the metadata in it: the pack's file is then as it was."""
    raw, digest = full(MODEL)
    header, _ = taken_apart(raw)
    again = safetensors.torch.save(safetensors.torch.load(raw), header["__metadata__"])
    assert unpack(again, tmp_path) == digest


@pytest.mark.parametrize("shapes", [{}, {"a": 1}, {"b.c": 3, "a.x": 0, "z_9": 7}])
def test_the_librarys_header_is_the_one_that_is_written(tmp_path: Path, shapes: dict[str, int]) -> None:
    """Otherwise no file would fit its digest any more."""
    from steering.tensor_file import read_header, write_header

    raw = write_tensors({name: torch.ones(size, dtype=torch.float16) for name, size in shapes.items()})
    file = io.BytesIO(raw)
    assert write_header(read_header(file)) == raw[: file.tell()]


def test_a_file_is_replaced_while_it_is_sent(tmp_path: Path) -> None:
    """Who began to read it gets it as it was."""
    save_pack(simple_pack(MODEL, name="mine"), tmp_path / "mine")
    expected = b"".join(pack_in_one_file(tmp_path / "mine").pieces())
    pieces = pack_in_one_file(tmp_path / "mine").pieces()
    begun = next(pieces)
    save_pack(full_pack(MODEL, name="mine"), tmp_path / "mine")
    assert begun + b"".join(pieces) == expected


def test_T12_what_cannot_be_sent_says_why(tmp_path: Path) -> None:
    save_pack(simple_pack(MODEL, card="ä" * 300_000, evidence={"x": "y" * 500_000}), tmp_path / "large")
    with pytest.raises(PackError, match=r"take \d+ bytes in one file; at most 1048576"):
        pack_in_one_file(tmp_path / "large")
    save_pack(simple_pack(MODEL), tmp_path / "odd")
    header, data = taken_apart((tmp_path / "odd" / "tensors.safetensors").read_bytes())
    (tmp_path / "odd" / "tensors.safetensors").write_bytes(put_together(header, data))
    with pytest.raises(PackError, match="a header in a form of its own"):
        pack_in_one_file(tmp_path / "odd")
    (tmp_path / "odd" / "tensors.safetensors").unlink()
    with pytest.raises(PackCorrupt, match="cannot be read"):
        pack_in_one_file(tmp_path / "odd")


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.canary), "w")


def foreign(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Name -> (a file of another format, what its refusal says)"""
    zipped, checkpoint, array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil", b"\0" * 10**6)
    torch.save({"a": torch.ones(3)}, checkpoint)
    numpy.save(array, numpy.array([Evil(canary)], dtype=object), allow_pickle=True)
    return {
        "pickle": (pickle.dumps(Evil(canary)), "a pickle"),
        "pickle 2": (pickle.dumps(Evil(canary), 2), "a pickle"),
        "pickle 0": (pickle.dumps(Evil(canary), 0), "no safetensors file"),
        "checkpoint of torch": (checkpoint.getvalue(), "a zip archive"),
        "zip that climbs": (zipped.getvalue(), "a zip archive"),
        "npy of objects": (array.getvalue(), "an array of numpy"),
        "GGUF": (b"GGUF\x03\0\0\0" + bytes(100), "unsway packs import"),
        "GGUF with a brace": (b"GGUF\x03\0\0\0{" + bytes(100), "unsway packs import"),
        "gzip": (gzip.compress(b"x" * 100), "compressed"),
        "JSON": (b'{"format": "unsway.pack/1", "name": "mine"}', "JSON"),
        "large JSON": (b'{"a": "' + b"x" * 5 * 2**20 + b'"}', "JSON"),
        "HTML": (b"<!doctype html><title>x</title>", "no safetensors file"),
        "program": (b"\x7fELF\x02\x01\x01" + bytes(200), "no safetensors file"),
    }


@pytest.mark.parametrize("kind", foreign(Path("canary")))
def test_T14_other_formats_by_their_first_bytes(tmp_path: Path, kind: str) -> None:
    raw, says = foreign(tmp_path / "canary")[kind]
    with pytest.raises(UnsupportedFile, match=says):
        unpack(raw, tmp_path)
    assert not is_pack_file(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # no canary, nothing half made


WHOLE, DIGEST = full(MODEL)
HEADER, DATA = taken_apart(WHOLE)
ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
METADATA = {"__metadata__": HEADER["__metadata__"]}


def changed(**changes: object) -> bytes:
    """The whole file, less or more of its header."""
    header = {key: value for key, value in (HEADER | changes).items() if value is not None}
    return put_together(header, DATA)


SPOILT: dict[str, tuple[bytes, type[PackCorrupt], str]] = {
    "empty": (b"", TensorFileCorrupt, "truncated"),
    "seven bytes": (WHOLE[:7], TensorFileCorrupt, "truncated"),
    "length 2**63": (put_together(HEADER, DATA, length=2**63), TensorFileCorrupt, "truncated"),
    "length of 200 MB": (put_together(HEADER, DATA, length=200 * 2**20), TensorFileCorrupt, "truncated"),
    "header above 1 MB": (put_together("{" + " " * 2**20 + "}"), TensorFileCorrupt, "has a header of"),
    "300,000 empty tensors": (
        put_together({f"t{i}": {**ENTRY, "shape": [0], "data_offsets": [0, 0]} for i in range(300_000)}),
        TensorFileCorrupt,
        "has a header of",
    ),
    "4,097 tensors": (
        put_together(METADATA | {f"t{i}": {**ENTRY, "shape": [0], "data_offsets": [0, 0]} for i in range(4097)}),
        TensorFileCorrupt,
        "4097 tensors",
    ),
    "truncated header": (WHOLE[:2000], TensorFileCorrupt, "truncated"),
    "header is no JSON": (put_together("{'a': 1}"), TensorFileCorrupt, "not valid JSON"),
    "duplicate name": (
        put_together(json.dumps(METADATA)[:-1] + f', "a": {json.dumps(ENTRY)}, "a": {json.dumps(ENTRY)}}}', bytes(4)),
        TensorFileCorrupt,
        "a key is given twice",
    ),
    "a path for a name": (changed(**{"../../etc/x": ENTRY}), TensorFileCorrupt, "is not allowed"),
    "no metadata": (changed(__metadata__=None), TensorFileCorrupt, "without a pack in its metadata"),
    "metadata of numbers": (changed(__metadata__={"pack.json": 1}), TensorFileCorrupt, "without a pack"),
    "metadata is a list": (changed(__metadata__=[]), TensorFileCorrupt, "without a pack"),
    "no card": (changed(__metadata__={"pack.json": "{}"}), PackCorrupt, "'CARD.md' is missing"),
    "an owner beside": (
        changed(__metadata__={**HEADER["__metadata__"], "owner.json": "{}"}),
        PackKeyUnknown,
        "'owner.json' is unknown",
    ),
    "half a character": (
        changed(__metadata__={**HEADER["__metadata__"], "CARD.md": "\ud800"}),
        TensorFileCorrupt,
        "lone surrogate",
    ),
    "another card": (changed(__metadata__={**HEADER["__metadata__"], "CARD.md": "# x"}), PackCorrupt, "its digest"),
    "extra bytes": (WHOLE + b"x", PackCorrupt, "its digest"),
    "too few bytes": (WHOLE[:-1], PackCorrupt, "its digest"),
    "another pack's tensors": (put_together(HEADER, bytes(len(DATA))), PackCorrupt, "its digest"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_T11_T12_T13_T24_spoilt_files(tmp_path: Path, case: str) -> None:
    raw, kind, says = SPOILT[case]
    with pytest.raises(kind, match=says) as caught:
        unpack(raw, tmp_path)
    assert type(caught.value) is kind and str(tmp_path) not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_T14_any_byte_changed_is_refused(tmp_path: Path) -> None:
    """By a `PackError` and nothing else, wherever it is; but where it is space between two words of JSON."""
    draw, same = random.Random(1), 0
    head = len(WHOLE) - len(DATA)
    for at in [
        *range(16),
        *(draw.randrange(head) for _ in range(300)),
        *(draw.randrange(len(WHOLE)) for _ in range(40)),
    ]:
        spoilt = bytearray(WHOLE)
        spoilt[at] ^= 1 << draw.randrange(8)
        try:
            same += unpack(bytes(spoilt), tmp_path) == DIGEST
        except (PackCorrupt, PackModelMismatch):
            continue
    assert same < 10


def test_T5_a_pack_of_another_model(tmp_path: Path) -> None:
    raw, _ = simple(tiny_model("qwen3"))
    with pytest.raises(PackModelMismatch, match=MODEL.fingerprint[:19]):
        unpack(raw, tmp_path)


def test_the_name_is_the_packs_own(tmp_path: Path) -> None:
    with pytest.raises(PackCorrupt, match="is named mine, not other"):
        unpack(WHOLE, tmp_path, "other")


def test_only_a_pack_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(PackError, match="is no pack"):
        unpack(WHOLE, tmp_path)
    (tmp_path / "mine" / "thesis.tex").rename(tmp_path / "mine" / "CARD.md")
    unpack(WHOLE, tmp_path)
    assert load_pack(tmp_path / "mine", MODEL).name == "mine"
