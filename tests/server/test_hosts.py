"""FAULTS U4, U12: a page of somebody else cannot use a server on this machine, by its name or by another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.hosts import allowed_hosts
from server.serving import Served
from server.settings import Settings
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.server.fake_engine import FakeEngine
from tests.server.keyed import bearer, keyed
from tests.server.live import HELLO, Live, serve
from tests.server.test_http import exchange

ANY = "0.0.0.0"  # noqa: S104  never bound
PATHS = ["/", "/health/live", "/health/ready", "/v1/models", "/v1/chat/completions", "/openapi.json", "/nope"]


@pytest.fixture(scope="module")
def named(model: LanguageModel, store: PackStore) -> Iterator[Live]:
    served = Served(model, FakeEngine(model), store, None, 1)  # type: ignore[arg-type]
    with serve(lambda: served, Settings(allowed_hosts="Unsway.internal, other")) as live:
        yield live


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost"),
        *("127.0.0.2", ANY, "[::2]", "::1", "[::1", "localhost:x", "localhost:80:80", "localhost/", "a@localhost"),
        *("", " ", ".", "localhost.", "[::1]evil", "localhost evil.example", "xn--localhost"),
    ],
)
def test_U12_a_foreign_host_is_refused_on_every_path(live: Live, path: str, host: str) -> None:
    reply = exchange(live, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert reply.startswith(b"HTTP/1.1 400"), reply
    assert b'"invalid_host"' in reply or host == ""  # h11 may refuse that itself


def test_U12_two_hosts_or_none(live: Live) -> None:
    for lines in ("Host: localhost\r\nHost: localhost\r\n", "Host: localhost\r\nHost: evil\r\n", ""):
        reply = exchange(live, f"GET /v1/models HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
        assert reply.startswith(b"HTTP/1.1 400"), reply
    assert exchange(live, b"GET /v1/models HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8000"])
def test_U12_its_own_names(live: Live, named: Live, host: str) -> None:
    for server in (live, named):
        assert server.client.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(("host", "status"), [("unsway.internal", 200), ("OTHER:9", 200), ("third", 400)])
def test_U12_names_that_are_given(named: Live, host: str, status: int) -> None:
    assert named.client.get("/v1/models", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("settings", "hosts"),
    [
        (Settings(), {"localhost", "127.0.0.1", "[::1]"}),
        (Settings(host="127.9.9.9"), {"localhost", "127.0.0.1", "[::1]", "127.9.9.9"}),
        (Settings(host="::1", no_auth=True), {"localhost", "127.0.0.1", "[::1]"}),
        (Settings(allowed_hosts="a"), {"localhost", "127.0.0.1", "[::1]", "a"}),
        (Settings(host=ANY, no_auth=True), None),
        (Settings(host=ANY, api_key="k", allowed_hosts="a,b"), {"localhost", "127.0.0.1", "[::1]", ANY, "a", "b"}),
        (Settings(api_key="k"), None),
        (Settings(allowed_hosts="*"), None),
    ],
)
def test_which_names_are_allowed(settings: Settings, hosts: set[str] | None) -> None:
    assert allowed_hosts(settings) == hosts


def test_U12_with_a_key_any_name_does_and_the_key_decides(tmp_path: Path, fake: Served) -> None:
    with keyed(fake, tmp_path, {"alice": {}}) as server:
        assert server.live.client.get("/v1/models", headers={"host": "evil.example"}).status_code == 401
        assert server.live.client.get("/v1/models", headers={"host": "my.example"} | bearer("alice")).status_code == 200


def test_U12_a_page_of_another_origin_can_read_and_send_nothing(live: Live) -> None:
    """What a browser sends without asking first is refused; what it asks for is not allowed; no cookie is ever set."""
    origin = {"origin": "http://evil.example", "sec-fetch-site": "cross-site"}
    body = json.dumps({"model": "tiny", "messages": HELLO})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        reply = live.client.post("/v1/chat/completions", content=body, headers=origin | {"content-type": kind})
        assert reply.status_code == 415
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    for path in PATHS:
        replies = [live.client.options(path, headers=origin | asks), live.client.get(path, headers=origin)]
        for reply in replies:
            assert not [name for name in reply.headers if name.startswith("access-control") or name == "set-cookie"]
        assert replies[0].status_code in (404, 405) and replies[0].json()["error"]


def test_U4_bare_and_preflight_options_need_the_key(tmp_path: Path, fake: Served) -> None:
    preflight = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    with keyed(fake, tmp_path, {"alice": {}}) as server:
        for path in PATHS:
            if path in ("/", "/health/live", "/health/ready"):
                continue
            for headers in ({}, preflight):
                reply = server.live.client.options(path, headers=headers)
                assert (reply.status_code, reply.json()["error"]["code"]) == (401, "missing_api_key")
                assert not [name for name in reply.headers if name.startswith("access-control")]
