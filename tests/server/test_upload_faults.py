"""What is sent as a profile and is none: refused by name, with nothing left behind, while others are answered."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from server import uploading
from server.uploading import _receive
from tests.models import tiny_model
from tests.one_file import forged, put_together, simple, taken_apart
from tests.server.fake_engine import FakeEngine
from tests.server.keyed import bearer, keyed
from tests.server.live import Live
from tests.server.test_http import exchange as whole_exchange
from tests.server.uploads import MODEL, ONE, ONE_DIGEST, TWO, TWO_DIGEST, etag, listed, put, serving, told, with_uploads
from tests.test_one_file import SPOILT, foreign

PATH = "/v1/steering/profiles/mine"
MOST = 200_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("server") / "uploads"
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Live]:
    with serving(with_uploads(folder, FakeEngine(MODEL)), max_upload=f"{MOST}B") as live:
        put(live, simple(MODEL, "standing")[0], "standing")
        yield live


@pytest.fixture(autouse=True)
def _as_it_was(server: Live, folder: Path, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After each: one profile, nothing left on the disk, nothing in the log, and it answers."""
    with caplog.at_level(logging.WARNING):
        yield
    server.wait_until(lambda: sorted(path.name for path in folder.iterdir()) == [".lock", "standing"])
    assert listed(server).keys() == {"standing"} and "Traceback" not in caplog.text
    assert server.chat(steering="standing").status_code == 200


def refused(server: Live, raw: bytes, code: str, says: str = "", *, status: int = 400) -> dict[str, Any]:
    before = server.client.get("/metrics").text
    reply = put(server, raw)
    assert told(reply) == (status, code), reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert says in error["message"] and len(reply.content) < 4000 and "upload" not in error["message"]
    counted = f'unsway_errors_total{{code="{code}"}}'
    assert count_of(server.client.get("/metrics").text, counted) == count_of(before, counted) + 1
    return error


def count_of(page: str, sample: str) -> float:
    return next((float(line.split()[-1]) for line in page.splitlines() if line.startswith(sample)), 0.0)


@pytest.mark.parametrize("kind", foreign(Path("canary")))
def test_T14_other_formats(server: Live, tmp_path: Path, kind: str) -> None:
    raw, says = foreign(tmp_path / "canary")[kind]
    if len(raw) > MOST:
        refused(server, raw, "request_too_large", status=413)  # T15: JSON of any size is none either
    else:
        refused(server, raw, "unsupported_file_format", says)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("case", [case for case in SPOILT if len(SPOILT[case][0]) <= MOST])
def test_T11_T12_T13_spoilt_files(server: Live, case: str) -> None:
    raw, kind, says = SPOILT[case]
    code = {"TensorFileCorrupt": "invalid_tensor_file", "PackKeyUnknown": "unknown_parameter"}.get(kind.__name__)
    refused(server, raw, code or "invalid_value", says)


TENSORS: dict[str, tuple[torch.Tensor, str, str]] = {
    "too short": (torch.ones(63), "shape_mismatch", "has shape [63]; expected [64]"),
    "rank 0": (torch.tensor(1.0), "shape_mismatch", "has shape []"),
    "rank 2": (torch.ones(1, 64), "shape_mismatch", "has shape [1, 64]"),
    "without elements": (torch.ones(0, 10**9), "shape_mismatch", "has shape [0, 1000000000]"),
    "float64": (torch.ones(64, dtype=torch.float64), "shape_mismatch", "is none of"),
    "int8": (torch.ones(64, dtype=torch.int8), "shape_mismatch", "is none of"),
    "uint8": (torch.ones(64, dtype=torch.uint8), "shape_mismatch", "has type torch.uint8"),
    "complex": (torch.ones(64, dtype=torch.complex64), "invalid_tensor_file", "is none of"),
    "NaN": (torch.full((64,), torch.nan), "non_finite_number", "not finite"),
    "infinity": (torch.tensor([torch.inf] + [0.0] * 63), "non_finite_number", "not finite"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_T9_T10_wrong_tensors(server: Live, case: str) -> None:
    tensor, code, says = TENSORS[case]
    refused(server, forged(TWO, corrections__2__vector=tensor), code, says)


def test_T9_T10_transposed_and_extra(server: Live) -> None:
    basis = torch.eye(64)[:2].T.contiguous()
    refused(server, forged(TWO, corrections__3__basis=basis), "shape_mismatch", "has shape [64, 2]")
    refused(server, forged(TWO, extra=torch.ones(1)), "invalid_value", "used by nothing")
    refused(server, forged(TWO, lens__bias=None), "invalid_value", "is not in the tensor file")


@pytest.mark.parametrize("value", [torch.full((64,), 1e38), torch.full((64,), 1e-42), torch.ones(64).bfloat16()])
def test_T10_what_is_finite_is_taken(server: Live, value: torch.Tensor) -> None:
    """Whether it is wise is another question: what overflows while it runs ends in numerical_error (T16)."""
    assert put(server, forged(TWO, corrections__2__vector=value)).status_code == 201
    assert server.client.delete(PATH).status_code == 204


def test_T5_made_for_another_model(server: Live) -> None:
    other = tiny_model("qwen3")
    error = refused(server, simple(other)[0], "profile_model_mismatch")
    assert all(model.fingerprint[:19] in error["message"] for model in (other, MODEL))


DOCUMENTS: dict[str, tuple[Any, str, str, str | None]] = {
    "owner": (lambda d: d.update(owner="key:me"), "unknown_parameter", "'owner' is unknown", "pack.json.owner"),
    "builtin": (lambda d: d.update(builtin=True), "unknown_parameter", "'builtin'", "pack.json.builtin"),
    "created_at": (lambda d: d.update(created_at=1), "unknown_parameter", "'created_at'", "pack.json.created_at"),
    "owner of a correction": (
        lambda d: d["corrections"][0].update(owner="me"),
        "unknown_parameter",
        "'owner'",
        "corrections.0.owner",
    ),
    "layer": (lambda d: d["corrections"][0].update(site="attn_z.4"), "layer_out_of_range", "0..3", None),
    "layer of the lens": (lambda d: d["detector"]["lens"].update(layer=-1), "layer_out_of_range", "0..3", None),
    "strength": (lambda d: d.update(max_strength=0), "invalid_value", "at least 1", None),
    "reserved name": (lambda d: d.update(name="off"), "invalid_value", "reserved", None),
    "another name": (lambda d: d.update(name="yours"), "invalid_value", "named yours, not mine", None),
    "name that climbs": (lambda d: d.update(name="../../etc"), "invalid_value", "", None),
    "format": (lambda d: d.update(format="unsway.pack/2"), "invalid_value", "this version reads", None),
    "half a character": (lambda d: d.update(description="\ud800"), "invalid_value", "lone surrogate", None),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_T24_documents_that_are_none(server: Live, case: str) -> None:
    change, code, says, param = DOCUMENTS[case]
    assert refused(server, forged(TWO, change), code, says)["param"] == param


def test_T24_nothing_else_can_be_set(server: Live) -> None:
    for query in ("owner=me", "builtin=true&x=1", "name=other"):
        for reply in (server.client.put(f"{PATH}?{query}", content=ONE), server.client.delete(f"{PATH}?{query}")):
            assert told(reply) == (400, "unknown_parameter")
            assert reply.json()["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>", "=cmd()|' /C calc'!A0", "[x](javascript:alert(1))"])
def test_T25_texts_are_data(server: Live, text: str) -> None:
    assert put(server, forged(TWO, lambda d: d.update(description=text))).status_code == 201
    reply = server.client.get(PATH)
    assert reply.json()["description"] == text and reply.headers["content-type"] == "application/json"
    assert server.client.delete(PATH).status_code == 204


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("Mine", "invalid_name"),
        ("-a", "invalid_name"),
        ("a" * 65, "invalid_name"),
        ("CON", "invalid_name"),
        ("none", "invalid_name"),
        ("mine@abcd", "invalid_name"),
        ("..%00", "invalid_name"),
        ("%C3%A4", "invalid_name"),
        ("%2e%2e", "invalid_name"),
        (".lock", "invalid_name"),
        ("..%2f..%2fetc", "not_found"),
        ("a/b", "not_found"),
    ],
)
def test_T4_impossible_names(server: Live, name: str, code: str) -> None:
    for method in ("PUT", "DELETE"):
        reply = server.client.request(method, f"/v1/steering/profiles/{name}", content=ONE)
        assert told(reply)[1] == code and reply.status_code in (400, 404)


# The body


def head(length: int | None, *more: bytes) -> bytes:
    lines = [b"PUT " + PATH.encode() + b" HTTP/1.1", b"Host: [::1]", *more]
    return b"\r\n".join([*lines, *([b"Content-Length: %d" % length] if length is not None else []), b"", b""])


def exchange(server: Live, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(request)
        return client.recv(65536)


def test_H3_H18_too_large_is_said_before_it_is_read(server: Live) -> None:
    reply = whole_exchange(server, head(MOST + 1, b"Expect: 100-continue"))
    assert reply.startswith(b"HTTP/1.1 413") and b"request_too_large" in reply and b"200,000 bytes" in reply


def test_H4_too_large_in_chunks(server: Live) -> None:
    reply = server.client.put(PATH, content=iter([ONE, *[bytes(65536)] * 5]))
    assert told(reply) == (413, "request_too_large")
    assert put(server, ONE).status_code == 201 and server.client.delete(PATH).status_code == 204


def test_to_the_byte(server: Live) -> None:
    header, data = taken_apart(ONE)
    padded = put_together(json.dumps(header).ljust(MOST - len(data) - 8), data)
    assert len(padded) == MOST
    assert put(server, padded).status_code == 201 and server.client.delete(PATH).status_code == 204
    refused(server, padded + b"x", "request_too_large", status=413)


def test_refused_before_it_is_read(server: Live) -> None:
    """Nobody sends 64 MB to be told that the name is taken."""
    request = head(MOST, b"Expect: 100-continue").replace(b"/mine", b"/standing")
    assert exchange(server, request).startswith(b"HTTP/1.1 409")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data", "application/json"])
def test_H12_types(server: Live, kind: str) -> None:
    reply = put(server, ONE, content_type=kind)
    assert told(reply) == (415, "unsupported_media_type") and "application/octet-stream" in reply.text
    assert put(server, ONE, content_type="Application/Octet-Stream").status_code == 201
    assert server.client.delete(PATH).status_code == 204


def test_H13_nothing_is_inflated(server: Live) -> None:
    assert told(put(server, ONE, content_encoding="gzip")) == (415, "unsupported_media_type")


@pytest.mark.parametrize("timeout", ["PIECE_TIMEOUT", "UPLOAD_TIMEOUT"])
def test_H9_a_body_that_drips(server: Live, monkeypatch: pytest.MonkeyPatch, timeout: str) -> None:
    monkeypatch.setattr(uploading, timeout, 0.2)
    assert exchange(server, head(99) + b"x").startswith(b"HTTP/1.1 408")


def test_a_client_that_leaves_while_it_sends(server: Live, folder: Path) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head(len(ONE)) + ONE[:-1])
        server.wait_until(lambda: any(path.suffix == ".part" for path in folder.iterdir()))


def test_O6_uploads_that_do_not_come_keep_no_other_key_waiting(tmp_path: Path) -> None:
    tables = {"idle": {"scopes": ["profiles"]}, "alice": {"scopes": ["profiles"]}}
    served = with_uploads(tmp_path / "own", FakeEngine(MODEL))
    with keyed(served, tmp_path, tables) as running, ExitStack() as clients:
        for i in range(6):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", running.live.port), timeout=10))
            key = f"Authorization: {bearer('idle')['authorization']}".encode()
            client.sendall(head(99, key).replace(b"/mine", b"/idle-%d" % i) + b"x")
        time.sleep(0.3)
        reply = running.live.client.put(PATH, content=ONE, headers=bearer("alice"), timeout=10)
        assert reply.status_code == 201


def test_a_client_that_leaves_when_all_is_received(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is brought to its end."""
    storing, left, fsync = threading.Event(), threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        storing.set()
        left.wait(10)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head(len(ONE)) + ONE)
        assert storing.wait(10)
    time.sleep(0.1)  # for the server to see it
    left.set()
    server.wait_until(lambda: "mine" in listed(server))
    assert server.client.delete(PATH).status_code == 204


async def test_memory_is_flat(tmp_path: Path) -> None:
    class Sent:
        async def stream(self) -> AsyncIterator[bytes]:
            for _ in range(1024):
                yield bytes(2**16)

    tracemalloc.start()
    try:
        await _receive(Sent(), tmp_path / "file", 2**26)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "file").stat().st_size == 2**26 and peak < 2**20


# The disk


@pytest.mark.parametrize(
    ("number", "status", "code"), [(errno.ENOSPC, 507, "storage_full"), (errno.EROFS, 403, "profile_read_only")]
)
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_L7_L9_a_disk_that_refuses(
    server: Live, monkeypatch: pytest.MonkeyPatch, number: int, status: int, code: str, call: str
) -> None:
    put(server, ONE)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        reply = put(server, TWO, if_match=etag(ONE_DIGEST))
        assert told(reply) == (status, code)
        assert status != 507 or reply.headers["x-should-retry"] == "false"
        assert server.chat(steering="mine").headers["x-steering-profile"] == f"mine@{ONE_DIGEST[:12]}"
    assert put(server, TWO, if_match=etag(ONE_DIGEST)).headers["etag"] == etag(TWO_DIGEST)
    assert server.client.delete(PATH).status_code == 204


def test_L7_a_disk_that_is_full_while_it_is_received(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(uploading, "_receive", refuse)
        assert told(put(server, ONE)) == (507, "storage_full")
    assert put(server, ONE).status_code == 201 and server.client.delete(PATH).status_code == 204
