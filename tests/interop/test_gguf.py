"""GGUF control vectors, against the `gguf` package in both directions; files that are none, or mean harm."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import process_time

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from steering.errors import DataError
from steering.interop.directions import Directions
from steering.interop.gguf import parse_gguf, write_gguf

D = 64
F32, F16, U8, STRING, ARRAY = 0, 1, 0, 8, 9


def noise(*layers: int, width: int = D) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {layer: torch.randn(width, generator=generator) for layer in layers}


def repeng(path: Path, vectors: Mapping[int, Tensor], **more: str) -> Path:
    """As `ControlVector.export_gguf` of repeng writes it: its layers run from the last down to 1."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(vectors))
    for key, value in more.items():
        writer.add_string(f"controlvector.{key}", value)
    for layer in sorted(vectors, reverse=True):
        writer.add_tensor(f"direction.{layer}", vectors[layer].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def same(found: Mapping[int, Tensor], expected: Mapping[int, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


def test_the_package_reads_what_we_write(tmp_path: Path) -> None:
    vectors = noise(7, 2, 31, width=67)
    path = tmp_path / "vector.gguf"
    path.write_bytes(write_gguf(Directions(vectors, "qwen3", {"pack": "candid@0123", "lost": "caf\u00e9"})))
    reader = gguf.GGUFReader(path)
    assert {tensor.name for tensor in reader.tensors} == {"direction.2", "direction.7", "direction.31"}
    for tensor in reader.tensors:
        expected = vectors[int(tensor.name.removeprefix("direction."))].numpy()
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32 and list(tensor.shape) == [67]
        assert np.array_equal(tensor.data, expected)
    stated = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert stated == {
        "general.architecture": "controlvector",
        "controlvector.model_hint": "qwen3",
        "controlvector.layer_count": 3,
        "unsway.pack": "candid@0123",
        "unsway.lost": "caf\u00e9",
    }


def test_we_read_what_the_package_writes(tmp_path: Path) -> None:
    found = parse_gguf(repeng(tmp_path / "v.gguf", noise(3, 1, 2), method="diffmean").read_bytes(), "v")
    assert same(found.vectors, noise(3, 1, 2)) and list(found.vectors) == [1, 2, 3]
    assert (found.model_type, found.notes) == ("llama", {})


def test_keys_of_every_type_are_passed_over(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "steeringvector")
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        getattr(writer, f"add_{name}")(f"x.{name}", 7)
    writer.add_float32("x.float32", 0.5)
    writer.add_float64("x.float64", 0.5)
    writer.add_bool("x.bool", True)
    writer.add_array("x.numbers", [1, 2, 3])
    writer.add_array("x.texts", ["a", "", "bcd"])
    writer.add_custom_alignment(64)
    for layer, vector in noise(1, 2, width=9).items():
        writer.add_tensor(f"direction.{layer}", vector.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert same(parse_gguf((tmp_path / "v.gguf").read_bytes(), "v").vectors, noise(1, 2, width=9))


def test_law_there_and_back() -> None:
    directions = Directions(noise(1, 5, width=33), "llama", {"pack": "p"})
    back = parse_gguf(write_gguf(directions), "v")
    assert same(back.vectors, directions.vectors) and (back.model_type, back.notes) == ("llama", {"pack": "p"})


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


ARCHITECTURE = key(b"general.architecture", STRING, text(b"controlvector"))


def tensor(name: bytes = b"direction.1", dims: Sequence[int] = (8,), kind: int = F32, offset: int = 0) -> bytes:
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


def file(
    *parts: bytes,
    keys: Sequence[bytes] = (ARCHITECTURE,),
    counts: tuple[int, int] | None = None,
    version: int = 3,
    magic: bytes = b"GGUF",
    data: bytes = bytes(64),
) -> bytes:
    stated = counts or (len(parts), len(keys))
    header = magic + struct.pack("<IQQ", version, *stated) + b"".join(keys) + b"".join(parts)
    return header + bytes(-len(header) % 32) + data


def test_the_file_by_hand_is_one() -> None:
    """Or what follows would be refused for another reason."""
    assert same(parse_gguf(file(tensor(), tensor(b"direction.2", offset=32)), "v").vectors, noise_free(1, 2))


def noise_free(*layers: int) -> dict[int, Tensor]:
    return {layer: torch.zeros(8) for layer in layers}


HUGE = 2**63
HOSTILE = {
    "magic": (file(tensor(), magic=b"GGML"), "is no GGUF file"),
    "version": (file(tensor(), version=1), "GGUF version 1"),
    "big endian": (file(tensor(), version=3 << 24), "version 50331648"),
    "tensors beyond count": (file(tensor(), counts=(HUGE, 1)), f"states {HUGE} tensors"),
    "keys beyond count": (file(tensor(), counts=(1, HUGE)), f"{HUGE} keys"),
    "more tensors than there are": (file(tensor(), counts=(9, 1), data=b""), "no end of its header|has a tensor"),
    "a text without end": (file(keys=[struct.pack("<Q", HUGE) + b"x"]), "no end of its header"),
    "an array without end": (
        file(keys=[ARCHITECTURE, key(b"x", ARRAY, struct.pack("<IQ", U8, HUGE))]),
        "no end of its header",
    ),
    "texts without end": (
        file(keys=[ARCHITECTURE, key(b"x", ARRAY, struct.pack("<IQ", STRING, HUGE))]),
        "no end of its header",
    ),
    "arrays in arrays": (
        file(keys=[ARCHITECTURE, key(b"x", ARRAY, struct.pack("<IQ", ARRAY, 1))]),
        "of type 9, which is none",
    ),
    "a type that is none": (file(keys=[ARCHITECTURE, key(b"x", 99, b"")]), "of type 99"),
    "a key twice": (file(keys=[ARCHITECTURE, ARCHITECTURE]), "key 'general.architecture' twice"),
    "a key that is no text": (file(keys=[key(b"\xff", 0, b"\0")]), "not UTF-8"),
    "a model": (
        file(keys=[key(b"general.architecture", STRING, text(b"llama"))]),
        "architecture 'llama'; a control vector has 'controlvector'",
    ),
    "no architecture": (file(tensor(), keys=[]), "has no general.architecture"),
    "an architecture that is no text": (
        file(keys=[key(b"general.architecture", 4, struct.pack("<I", 1))]),
        "architecture '1'",
    ),
    "layer 0": (file(tensor(b"direction.0")), "direction.0"),
    "a layer twice": (file(tensor(), tensor()), "direction.1 twice"),
    "leading zeros": (file(tensor(b"direction.01")), "'direction.01'"),
    "a negative layer": (file(tensor(b"direction.-1")), "'direction.-1'"),
    "another tensor": (file(tensor(b"../../etc/x\n\x1b[31m")), r"'\.\./\.\./etc/x\\n\\x1b"),
    "digits of another script": (file(tensor("direction.\u0661".encode())), "has a tensor"),
    "two dimensions": (file(tensor(dims=(2, 4))), "with 2 dimensions"),
    "no dimension": (file(tensor(dims=())), "with 0 dimensions"),
    "half precision": (file(tensor(kind=F16)), "in type 1; expected 0"),
    "no numbers": (file(tensor(dims=(0,))), "states 0 numbers"),
    "numbers beyond the file": (file(tensor(dims=(17,))), "states 17 numbers"),
    "numbers beyond everything": (file(tensor(dims=(HUGE,))), f"states {HUGE} numbers"),
    "an offset beyond the file": (file(tensor(offset=64)), "where it does not have them"),
    "an offset beyond everything": (file(tensor(offset=2**64 - 32)), "where it does not have them"),
    "an odd offset": (file(tensor(offset=4)), "where it does not have them"),
    "widths that differ": (file(tensor(), tensor(b"direction.2", dims=(4,), offset=32)), "several widths"),
    "numbers that are shared": (
        file(tensor(), tensor(b"direction.2"), tensor(b"direction.3")),
        "share their numbers",
    ),
    "an alignment of 0": (
        file(tensor(), keys=[ARCHITECTURE, key(b"general.alignment", 4, bytes(4))]),
        "alignment of 0",
    ),
    "an alignment of 48": (
        file(tensor(), keys=[ARCHITECTURE, key(b"general.alignment", 4, struct.pack("<I", 48))]),
        "alignment of 48",
    ),
    "an alignment that is a text": (
        file(tensor(), keys=[ARCHITECTURE, key(b"general.alignment", STRING, text(b"x"))]),
        "alignment of x",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_T14_files_that_are_none(name: str) -> None:
    raw, message = HOSTILE[name]
    with pytest.raises(DataError, match=f"^v: .*({message})"):
        parse_gguf(raw, "v")


def test_T14_truncated_anywhere() -> None:
    raw = write_gguf(Directions(noise(1, 2), "llama", {}))
    for length in range(len(raw) - 1, -1, -1):
        with pytest.raises(DataError):
            parse_gguf(raw[:length], "v")


def test_T14_a_header_is_read_in_little_time_and_memory() -> None:
    """Where the package would make an object of each of these."""
    count = 2**19
    numbers = key(b"x", ARRAY, struct.pack("<IQ", U8, count) + bytes(count))
    texts = key(b"y", ARRAY, struct.pack("<IQ", STRING, 60_000) + bytes(8 * 60_000))
    raw = file(tensor(), keys=[ARCHITECTURE, numbers, texts])
    tracemalloc.start()
    began = process_time()
    assert same(parse_gguf(raw, "v").vectors, noise_free(1))
    assert process_time() - began < 2
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    with pytest.raises(DataError, match="no end of its header within 1048576 bytes"):
        parse_gguf(file(tensor(), keys=[ARCHITECTURE, numbers, numbers.replace(b"x", b"z", 1), texts]), "v")
