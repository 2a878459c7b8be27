"""FAULTS H3-H13: bodies, types, paths and methods."""

from __future__ import annotations

import gzip
import json
import re
import socket
from collections.abc import Iterator

import pytest

from server import deps
from server.deps import MAX_BODY
from tests.server.live import HELLO, Live

HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: [::1]\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n%s\r\n"
)
BODY = json.dumps({"model": "tiny", "messages": HELLO, "seed": 1}).encode()


def exchange(live: Live, request: bytes) -> bytes:
    """Everything the server says until it closes."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as client:
        client.sendall(request)
        received = b""
        while piece := client.recv(65536):
            received += piece
    return received


def test_H1_H2_too_many_headers(live: Live) -> None:
    for headers in (b"X-A: " + b"x" * 200_000 + b"\r\n", b"X-A: b\r\n" * 20_000):
        try:
            reply = exchange(live, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n")
        except ConnectionError:
            continue  # closed while we were still sending
        assert reply.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))


def test_H3_declared_too_large(live: Live) -> None:
    reply = exchange(live, HEAD % (MAX_BODY + 1, b""))
    assert reply.startswith(b"HTTP/1.1 413") and b"request_too_large" in reply


def test_H4_chunked_too_large(live: Live) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 65536

    reply = live.client.post("/v1/chat/completions", content=pieces(), headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
    assert live.post(b" " * (MAX_BODY - len(BODY)) + BODY).status_code == 200  # to the byte


def test_H9_a_body_that_drips(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deps, "BODY_TIMEOUT", 0.1)
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as client:
        client.sendall(HEAD % (99, b"") + b"{")
        assert client.recv(65536).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "path", ["/nope", "/v1", "/v1/chat", "/v1/chat/completions/", "/docs", "/redoc", "/page/index.html"]
)
def test_H11_unknown_paths(live: Live, path: str) -> None:
    reply = live.client.get(path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
def test_H11_wrong_methods(live: Live, method: str) -> None:
    reply = live.client.request(method, "/v1/chat/completions")
    assert (reply.status_code, reply.json()["error"]["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""])
def test_H12_content_type(live: Live, content_type: str) -> None:
    reply = live.post(BODY, **{"content-type": content_type})
    assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert b"Hello" not in reply.content


def test_H12_json_with_a_charset(live: Live) -> None:
    assert live.post(BODY, **{"content-type": "Application/JSON; charset=utf-8"}).status_code == 200


def test_H13_nothing_is_inflated(live: Live) -> None:
    bomb = gzip.compress(b" " * 1_000_000)
    for encoding in ("gzip", "deflate", "br", "identity, gzip"):
        reply = live.post(bomb, **{"content-encoding": encoding})
        assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert live.post(BODY, **{"content-encoding": "identity"}).status_code == 200


def test_H14_a_connection_goes_on_after_a_4xx(live: Live) -> None:
    bad = HEAD % (2, b"") + b"[]"
    reply = exchange(live, bad * 5 + HEAD % (len(BODY), b"Connection: close\r\n") + BODY)
    assert re.findall(rb"HTTP/1.1 (\d+)", reply) == [b"400"] * 5 + [b"200"]


def test_H17_accept_does_not_matter(live: Live) -> None:
    assert live.client.get("/nope", headers={"accept": "text/html"}).headers["content-type"] == "application/json"
