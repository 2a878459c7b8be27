"""FAULTS U1-U4, H8: deny by default; the key is compared as bytes; no way round by path or header."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from starlette.routing import Route

from server import limits
from server.access import is_open
from server.app import create_app
from server.serving import Served
from server.settings import Settings
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.server.fake_engine import FakeEngine
from tests.server.live import Live, serve

KEY = "sk-Zürich 42"


@pytest.fixture(scope="module")
def locked(model: LanguageModel, store: PackStore) -> Iterator[Live]:
    """Does not mind being guessed at."""
    served = Served(model, FakeEngine(model), store, None, 1)  # type: ignore[arg-type]
    with patch.object(limits, "GUESSES_PER_MINUTE", 10**6), serve(lambda: served, Settings(api_key=KEY)) as live:
        yield live


def raw(live: Live, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", live.port), timeout=5) as client:
        client.sendall(request)
        return client.recv(65536)


def bearer(key: str | bytes, scheme: bytes = b"Bearer ") -> list[tuple[bytes, bytes]]:
    return [(b"authorization", scheme + (key if isinstance(key, bytes) else key.encode()))]


def test_U1_every_route_needs_the_key_unless_it_is_listed(locked: Live) -> None:
    app = create_app(Settings(), locked.engine)
    paths = {path.replace("{model_id}", "tiny") for path in app.openapi()["paths"]}
    paths |= {route.path for route in app.routes if isinstance(route, Route)}
    assert {"/v1/chat/completions", "/v1/models", "/openapi.json", "/health", "/version"} <= paths
    for path in paths | {"/nope", "/docs"}:
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
            none = locked.client.request(method, path).status_code
            wrong = locked.client.request(method, path, headers=bearer("wrong")).status_code
            right = locked.client.request(method, path, headers=bearer(KEY)).status_code
            assert right != 401
            assert (none, wrong) == ((right, right) if is_open(path) else (401, 401)), (method, path)


def test_wrong_and_missing_keys(locked: Live) -> None:
    missing, wrong = locked.chat(), locked.client.post("/v1/chat/completions", headers=bearer("x"))
    assert [(r.status_code, r.json()["error"]["code"]) for r in (missing, wrong)] == [
        (401, "missing_api_key"),
        (401, "invalid_api_key"),
    ]
    for reply in (missing, wrong):
        assert reply.headers["www-authenticate"] == "Bearer" and reply.headers["x-request-id"]
        assert reply.json()["error"]["type"] == "authentication_error" and reply.json()["error"]["param"] is None


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        (bearer(KEY), True),
        (bearer(KEY, b"bearer "), True),
        (bearer(KEY, b"BEARER   "), True),
        (bearer(KEY, b"Basic "), False),
        (bearer(KEY, b""), False),
        ([(b"authorization", b"Bearer")], False),
        (bearer(KEY[:-1]), False),
        (bearer(KEY + "x"), False),
        (bearer(KEY.upper()), False),
        (bearer(b"\xff\xfe"), False),
        (bearer("x" * 30_000), False),
        (bearer(KEY) + bearer(KEY), False),
        (bearer("x") + bearer(KEY), False),
        (bearer("' OR pg_sleep(8)--"), False),
        ([(b"x-api-key", KEY.encode())], False),
    ],
)
def test_U2_forms_of_the_header(locked: Live, headers: list[tuple[bytes, bytes]], allowed: bool) -> None:
    assert locked.client.get("/v1/models", headers=headers).status_code == (200 if allowed else 401)


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/models/",
        b"//v1/models",
        b"/v1/../health/live",
        b"/health/live/../../v1/models",
        b"/health/live/",
        b"/assets",
        b"/assetsx/../v1/models",
        b"/HEALTH/LIVE",
        b"/v1/models?x=/health/live",
        b"/v1/models#/health/live",
        b"/%2e",
        b"/openapi.json",
    ],
)
def test_U3_no_way_round_by_path(locked: Live, target: bytes) -> None:
    reply = raw(locked, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b" 401 " in reply.splitlines()[0] or b" 400 " in reply.splitlines()[0], reply[:200]


@pytest.mark.parametrize("host", [b"x/health/live#", b"a/?x=", b"x:80/../", b"[::1", b"health/live"])
def test_H8_no_way_round_by_host(locked: Live, host: bytes) -> None:
    reply = raw(locked, b"GET /v1/models HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    assert b" 401 " in reply.splitlines()[0] or b" 400 " in reply.splitlines()[0], reply[:200]


def test_absolute_form_targets(locked: Live) -> None:
    reply = raw(locked, b"GET http://x/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"200" not in reply.splitlines()[0]


def test_with_the_key_everything_works(locked: Live) -> None:
    reply = locked.client.post(
        "/v1/chat/completions",
        json={"model": "tiny", "messages": [{"role": "user", "content": "Hello there"}], "seed": 1},
        headers=bearer(KEY),
    )
    assert reply.status_code == 200


def test_the_key_is_never_told(locked: Live, caplog: pytest.LogCaptureFixture) -> None:
    reply = locked.client.get("/v1/models", headers=bearer("secret-guess"))
    assert "secret-guess" not in reply.text + caplog.text and KEY not in reply.text + caplog.text


def test_without_a_key_nothing_is_asked(live: Live) -> None:
    assert live.client.get("/v1/models").status_code == 200
