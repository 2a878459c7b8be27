"""No damaged, forged or unknown pack gets through: each is `PackCorrupt` in one line without a path."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from steering import pack_files
from steering.errors import PackCorrupt, PackModelMismatch
from steering.pack import load_pack, save_pack
from tests.models import tiny_model
from tests.packs import dola_pack, full_pack

MODEL = tiny_model()
FILES = ("pack.json", "tensors.safetensors", "CARD.md")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pack(full_pack(MODEL), tmp_path / "pack")
    return tmp_path / "pack"


def refused(folder: Path, expected: str = "") -> None:
    with pytest.raises(PackCorrupt) as caught:
        load_pack(folder, MODEL)
    message = str(caught.value)
    assert expected in message
    assert str(folder.parent) not in message
    assert "\n" not in message


def seal(folder: Path, document: dict[str, Any]) -> None:
    """Make all digests right again, as a forger would. Written apart from the code under test."""
    for name in FILES[1:]:
        document["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    document.pop("digest", None)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / "pack.json").write_text(json.dumps(document))


def forge(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "pack.json").read_text())
    change(document)
    seal(folder, document)


def forge_tensors(folder: Path, raw: bytes) -> None:
    (folder / "tensors.safetensors").write_bytes(raw)
    forge(folder, lambda document: None)


def test_a_sealed_pack_loads(folder: Path) -> None:
    """The forging below is not refused for its seal."""
    forge(folder, lambda document: document.update(description="changed"))
    assert load_pack(folder, MODEL).description == "changed"


# Damage


@pytest.mark.parametrize("name", FILES)
def test_L8_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, f"{name} cannot be read")


def test_L8_missing_directory(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "pack.json cannot be read")


@pytest.mark.parametrize("name", FILES)
def test_L8_truncation_anywhere(folder: Path, name: str) -> None:
    raw = (folder / name).read_bytes()
    for length in {*range(0, len(raw), max(1, len(raw) // 40)), 1, 7, 8, 9, len(raw) - 1}:
        (folder / name).write_bytes(raw[:length])
        if name == "pack.json" and length == len(raw) - 1:  # the newline at the end carries nothing
            load_pack(folder, MODEL)
        else:
            refused(folder)


@pytest.mark.parametrize("name", FILES)
def test_L8_flipped_byte_anywhere(folder: Path, name: str) -> None:
    raw = (folder / name).read_bytes()
    for at in range(0, len(raw), max(1, len(raw) // 100)):
        for bit in (1, 0x20, 0x80):
            damaged = bytearray(raw)
            damaged[at] ^= bit
            (folder / name).write_bytes(damaged)
            with pytest.raises((PackCorrupt, PackModelMismatch)):
                load_pack(folder, MODEL)


@pytest.mark.parametrize("name", FILES)
def test_L8_zeros_and_extra_bytes(folder: Path, name: str) -> None:
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(bytes(len(raw)))
    refused(folder)
    (folder / name).write_bytes(raw + b"x")
    refused(folder)


def test_L8_files_of_two_packs(folder: Path, tmp_path: Path) -> None:
    save_pack(full_pack(MODEL, detector=None, logit_corrections=(), corrections=()), tmp_path / "other")
    (folder / "tensors.safetensors").write_bytes((tmp_path / "other" / "tensors.safetensors").read_bytes())
    refused(folder, "tensors.safetensors does not match its digest")


# pack.json that states its own digest rightly


def put(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


FORGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown version": (put("format", value="unsway.pack/2"), "'unsway.pack/2'; this version reads 'unsway.pack/1'"),
    "no version": (drop("format"), "format"),
    "unknown key": (put("colour", value="red"), "'colour' is unknown"),
    "missing key": (drop("evidence"), "'evidence' is missing"),
    "name of another type": (put("name", value=7), "name has the wrong type"),
    "reserved name": (put("name", value="observe"), "reserved"),
    "name is a path": (put("name", value="../../etc"), "does not match"),
    "other file": (put("files", "../../etc/passwd", value="0"), "'../../etc/passwd' is unknown"),
    "max_strength is a boolean": (put("max_strength", value=True), "wrong type"),
    "max_strength too small": (put("max_strength", value=0), "at least 1"),
    "max_strength is huge": (put("max_strength", value=10**400), "not a finite number"),
    "created is no string": (put("created", "torch", value=2), "created.torch has the wrong type"),
    "corrections is an object": (put("corrections", value={}), "corrections has the wrong type"),
    "correction is a list": (put("corrections", 0, value=[]), "corrections.0 must be an object"),
    "correction has another key": (put("corrections", 0, "code", value="x"), "'code' is unknown"),
    "strength is a string": (put("corrections", 0, "strength", value="1"), "strength has the wrong type"),
    "site is unknown": (put("corrections", 0, "site", value="q_proj.2"), "a site reads like"),
    "site has a leading zero": (put("corrections", 0, "site", value="attn_z.02"), "a site reads like"),
    "layer out of range": (put("corrections", 0, "site", value="attn_z.4"), "out of range 0..3"),
    "edit is unknown": (put("corrections", 0, "edit", "kind", value="exec"), "must be one of set, scale"),
    "edit lacks a tensor": (drop("corrections", 0, "edit", "tensors", "mask"), "'mask' is missing"),
    "tensor is not there": (
        put("corrections", 0, "edit", "tensors", "mask", value="nope"),
        "is not in the tensor file",
    ),
    "mask is not a mask": (
        put("corrections", 0, "edit", "tensors", "mask", value="corrections.0.target"),
        "not a mask",
    ),
    "target is a mask": (
        put("corrections", 0, "edit", "tensors", "target", value="corrections.0.mask"),
        "has type torch.bool",
    ),
    "tensor left over": (drop("corrections", 3), "corrections.3.basis is used by nothing"),
    "gate is unknown": (put("corrections", 0, "gate", "kind", value="sometimes"), "must be always or drift"),
    "phase is unknown": (put("corrections", 0, "gate", "phases", value=["thinking"]), "phases of prompt"),
    "phase is a list": (put("corrections", 0, "gate", "phases", value=[[]]), "phases of prompt"),
    "no phases": (put("corrections", 0, "gate", "phases", value=[]), "non-empty"),
    "drift in the prompt": (put("corrections", 0, "gate", "phases", value=["prompt"]), "drift gate decides"),
    "latch is a number": (put("corrections", 0, "gate", "latch", value=1), "latch has the wrong type"),
    "two corrections of one name": (put("corrections", 1, "name", value="groups"), "unique"),
    "edit of the logits at a site": (put("corrections", 4, "site", value="resid_post.3"), "edit"),
    "edit of a site at the logits": (put("corrections", 2, "site", value="logits"), "edit"),
    "plausibility too large": (put("corrections", 4, "edit", "plausibility", value=1.0), "plausibility"),
    "contrast in the prompt": (
        put("corrections", 4, "gate", value={"kind": "always", "phases": ["prompt"], "latch": False}),
        "at the logits",
    ),
    "drift without detector": (put("detector", value=None), "used by nothing"),
    "lens is unknown": (put("detector", "lens", "kind", value="linear"), "must be one of logit, tuned"),
    "lens layer out of range": (put("detector", "lens", "layer", value=4), "out of range 0..3"),
    "lens layer negative": (put("detector", "lens", "layer", value=-1), "out of range 0..3"),
    "lens above a correction": (put("detector", "lens", "layer", value=3), "must lie below"),
    "threshold above 1": (put("detector", "threshold", value=1.5), "threshold"),
    "too few candidates": (put("detector", "num_candidates", value=1), "num_candidates"),
    "too many candidates": (put("detector", "num_candidates", value=385), "num_candidates exceeds the vocabulary"),
}


@pytest.mark.parametrize("case", FORGED)
def test_T6_forged_document(folder: Path, case: str) -> None:
    change, expected = FORGED[case]
    forge(folder, change)
    refused(folder, expected)


DOLA: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "bucket is missing": (drop("corrections", 0, "edit", "bucket"), "'bucket' is missing"),
    "bucket is a number": (put("corrections", 0, "edit", "bucket", value=2), "bucket has the wrong type"),
    "bucket is empty": (put("corrections", 0, "edit", "bucket", value=[]), "must be layers >= 0"),
    "bucket descends": (put("corrections", 0, "edit", "bucket", value=[2, 0]), "in ascending order"),
    "bucket is negative": (put("corrections", 0, "edit", "bucket", value=[-1, 0]), "must be layers >= 0"),
    "bucket of booleans": (put("corrections", 0, "edit", "bucket", value=[False, 1]), "a list of layers"),
    "bucket of texts": (put("corrections", 0, "edit", "bucket", value=["0"]), "a list of layers"),
    "bucket out of range": (put("corrections", 0, "edit", "bucket", value=[0, 4]), "out of range 0..3"),
    "bucket is huge": (put("corrections", 0, "edit", "bucket", value=[10**400]), "out of range 0..3"),
    "plausibility is 1": (put("corrections", 0, "edit", "plausibility", value=1), "plausibility must be in"),
    "kind is a site's": (put("corrections", 0, "edit", "kind", value="shift"), "'bucket' is unknown"),
    "kind is a list": (put("corrections", 0, "edit", "kind", value=[]), "'bucket' is unknown"),
    "a lens contrast with a bucket": (put("corrections", 0, "edit", "kind", value="lens_contrast"), "is unknown"),
    "drift without detector": (put("corrections", 0, "gate", "kind", value="drift"), "needs a detector"),
    "in the prompt": (put("corrections", 0, "gate", "phases", value=["prompt"]), "at the logits"),
}


@pytest.mark.parametrize("case", DOLA)
def test_T6_forged_layer_contrast(tmp_path: Path, case: str) -> None:
    save_pack(dola_pack(MODEL), tmp_path / "pack")
    change, expected = DOLA[case]
    forge(tmp_path / "pack", change)
    refused(tmp_path / "pack", expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not valid JSON"),
        ("[]", "must be an object"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"format": "unsway.pack/1", "format": "unsway.pack/1"}', "a key is given twice"),
        ('{"evidence": {"a": 1, "a": 2}}', "a key is given twice"),
        ('{"evidence": NaN}', "NaN is no number"),
        ('{"evidence": 1e999}', "no number that can be held"),
        ('{"description": "\\ud800"}', "lone surrogate"),
        ('{"evidence": ' + "[" * 70 + "]" * 70 + "}", "more than 64 levels deep"),
        ('{"max_strength": ' + "9" * 5000 + "}", "not valid JSON"),
        (" " * (2**20 + 1), "larger than"),
        ("\udcff", "not valid JSON"),
    ],
    ids=[
        "empty",
        "list",
        "open",
        "deep",
        "twice",
        "twice inside",
        "NaN",
        "1e999",
        "surrogate",
        "deep evidence",
        "long number",
        "large",
        "not UTF-8",
    ],
)
def test_T6_document_that_is_no_document(folder: Path, text: str, expected: str) -> None:
    (folder / "pack.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(folder, expected)


# Tensor files that match their digest


def tensor_bytes(folder: Path, **changes: torch.Tensor | None) -> bytes:
    tensors = safetensors.torch.load((folder / "tensors.safetensors").read_bytes())
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    return safetensors.torch.save(tensors)


SHAPES: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "too short": ({"corrections__2__vector": torch.ones(63)}, "has shape [63]; expected [64]"),
    "rank 0": ({"corrections__2__vector": torch.tensor(1.0)}, "has shape []; expected [64]"),
    "rank 2": ({"corrections__2__vector": torch.ones(1, 64)}, "has shape [1, 64]; expected [64]"),
    "empty": ({"corrections__2__vector": torch.ones(0, 10**9)}, "expected [64]"),
    "transposed basis": ({"corrections__3__basis": torch.eye(64)[:2].T.contiguous()}, "has shape [64, 2]"),
    "basis without rows": ({"corrections__3__basis": torch.ones(0, 64)}, "expected [1 to 64, 64]"),
    "basis of equal rows": ({"corrections__3__basis": torch.ones(2, 64) / 8}, "not orthonormal"),
    "lens not square": ({"lens__weight": torch.ones(64, 32)}, "expected [64, 64]"),
    "mask of another width": ({"corrections__0__mask": torch.ones(32, dtype=torch.bool)}, "expected [64]"),
    "mask of sevens": ({"corrections__0__mask": torch.full((64,), 7, dtype=torch.uint8)}, "not a mask"),
    "float64": ({"corrections__2__vector": torch.ones(64, dtype=torch.float64)}, "is none of"),
    "int8": ({"corrections__2__vector": torch.ones(64, dtype=torch.int8)}, "is none of"),
    "uint8 values": ({"corrections__2__vector": torch.ones(64, dtype=torch.uint8)}, "has type torch.uint8"),
    "NaN": ({"corrections__2__vector": torch.full((64,), torch.nan)}, "not finite"),
    "one infinity": ({"corrections__0__target": torch.tensor([float("inf")] + [0.0] * 63)}, "not finite"),
    "NaN in the lens": ({"lens__bias": torch.full((64,), torch.nan)}, "not finite"),
    "one more": ({"extra": torch.ones(1)}, "extra is used by nothing"),
    "a path for a name": ({"../../etc/x": torch.ones(1)}, "is not allowed"),
    "a long name": ({"a" * 200: torch.ones(1)}, "is not allowed"),
    "one less": ({"lens__bias": None}, "'lens.bias' is not in the tensor file"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_T9_T10_wrong_tensors(folder: Path, case: str) -> None:
    changes, expected = SHAPES[case]
    forge_tensors(folder, tensor_bytes(folder, **changes))
    refused(folder, expected)


def test_T9_masks_and_values_of_every_allowed_type(folder: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        changes = {"corrections__2__vector": torch.full((64,), 0.5, dtype=dtype)}
        forge_tensors(folder, tensor_bytes(folder, corrections__0__mask=torch.ones(64, dtype=torch.uint8), **changes))
        loaded = load_pack(folder, MODEL)
        assert torch.equal(loaded.corrections[2].edit.vector, torch.full((64,), 0.5))
        assert loaded.corrections[0].edit.mask.dtype == torch.bool


def header(entries: str | dict[str, object], data: bytes = b"", length: int | None = None) -> bytes:
    text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [(end - start) // 4], "data_offsets": [start, end]}


HEADERS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "truncated"),
    "seven bytes": (b"1234567", "truncated"),
    "length 2**63": (header("{}", length=2**63), "truncated"),
    "length beyond the file": (header("{}", length=200 * 2**20), "truncated"),
    "header above 1 MB": (header(" " * (2**20 + 1)), "has a header of 1048577 bytes"),
    "header is no JSON": (header("{'a': 1}"), "not valid JSON"),
    "header is a list": (header("[]"), "must be an object"),
    "header nests deeply": (header("[" * 100_000), "not valid JSON"),
    "duplicate name": (
        header(f'{{"a": {json.dumps(entry(0, 4))}, "a": {json.dumps(entry(0, 4))}}}', bytes(4)),
        "a key is given twice",
    ),
    "too many tensors": (header({f"t{i}": entry(0, 0) for i in range(4097)}), "4097 tensors"),
    "metadata": (header({"__metadata__": {"a": "b"}}), "not allowed"),
    "entry is a list": (header({"a": []}), "is none of"),
    "type is a list": (header({"a": {**entry(0, 4), "dtype": []}}, bytes(4)), "is none of"),
    "unknown type": (header({"a": entry(0, 4, "Q4_K")}, bytes(4)), "is none of"),
    "offsets overlap": (header({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "refused"),
    "offsets beyond the data": (header({"a": entry(0, 400)}, bytes(4)), "refused"),
    "offsets negative": (header({"a": {**entry(0, 4), "data_offsets": [-4, 0]}}, bytes(4)), "refused"),
    "shape overflows": (header({"a": {**entry(0, 4), "shape": [2**40, 2**40]}}, bytes(4)), "refused"),
    "extra bytes": (header({"a": entry(0, 4)}, bytes(8)), "refused"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_T11_T12_T13_header(folder: Path, case: str) -> None:
    raw, expected = HEADERS[case]
    forge_tensors(folder, raw)
    refused(folder, expected)


def test_T12_the_library_alone_would_accept_a_duplicate() -> None:
    """Why the check is ours; should this fail one day, the library has learnt it too."""
    assert list(safetensors.torch.load(HEADERS["duplicate name"][0])) == ["a"]


def test_T13_tensor_file_above_the_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pack_files._MAX_BYTES, "tensors.safetensors", 2**20)
    with (folder / "tensors.safetensors").open("r+b") as file:
        file.truncate(2**20 + 1)
    refused(folder, "tensors.safetensors is larger than")


def test_T14_other_formats_are_refused_and_nothing_runs(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(canary), "w")

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("../../evil", "x")
    for raw in (pickle.dumps(Evil()), archive.getvalue(), b"GGUF" + bytes(100), b"\x93NUMPY" + bytes(100)):
        forge_tensors(folder, raw)
        refused(folder)
    assert not canary.exists()
