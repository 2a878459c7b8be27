"""FAULTS U1, U5, A1.2 API5 and API9: every route stands in one table, and asks for its scope."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import socket
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
from fastapi import APIRouter
from starlette.routing import BaseRoute, Route

import server.routes
from openapi.export import _never
from server.access import TABLE, is_open, need
from server.app import create_app
from server.async_engine import AsyncEngine
from server.caller import SCOPES, Caller, require
from server.errors import ApiError
from server.serving import Served
from server.settings import Settings
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.server.fake_engine import FakeEngine
from tests.server.keyed import EVERYTHING, bearer, keyed
from tests.server.live import HELLO, Live, serve


def routers() -> Iterator[APIRouter]:
    for found in pkgutil.iter_modules(server.routes.__path__):
        module = importlib.import_module(f"server.routes.{found.name}")
        if isinstance(router := getattr(module, "router", None), APIRouter):
            yield router


def routes() -> list[tuple[str, str]]:
    """(path, method) of all that is there: of every router, and of what the application has besides."""
    app = create_app(Settings(), AsyncEngine(_never, capacity=1))
    own: list[BaseRoute] = [route for route in app.routes if hasattr(route, "path") and isinstance(route.path, str)]
    found = [*own, *(route for router in routers() for route in router.routes)]
    assert all(isinstance(route, Route) for route in found), "a mount or a socket: who may use it?"
    return sorted({(r.path, m) for r in found if isinstance(r, Route) for m in r.methods or ()})


ROUTES = routes()


def test_U1_the_walk_finds_what_there_is() -> None:
    app = create_app(Settings(), AsyncEngine(_never, capacity=1))
    described = {(path, method.upper()) for path, operations in app.openapi()["paths"].items() for method in operations}
    walked = {(path.replace(":path", ""), method) for path, method in ROUTES}
    assert described <= walked and {("/", "GET"), ("/openapi.json", "GET")} <= walked - described


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_U1_every_route_stands_in_the_table(path: str, method: str) -> None:
    assert need(path, method) is not None, f"{method} {path} has no row in server/access.py: nobody may call it"
    assert (need(path, method) == "open") == is_open(path)


@pytest.mark.parametrize("path", ["/v1/new", "/v1/modelsx", "/v1", "/metricsx", "/v1/steering", "", "//"])
def test_U1_what_does_not_stand_there_is_nobody_s(path: str) -> None:
    assert need(path, "GET") is None


def test_U1_a_route_that_was_forgotten_is_shut_to_all(fake: Served) -> None:
    """Even where no key is asked for: so it is noticed before it is dangerous."""
    with serve(lambda: fake) as live:
        router = APIRouter()
        router.add_api_route("/v1/forgotten", lambda: {"secret": 1})
        live.app.include_router(router)
        reply = live.client.get("/v1/forgotten")
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_scope")


def test_rows_cover_what_is_below_them_and_the_longest_wins() -> None:
    assert need("/v1/steering/profiles/{name}", "GET") == "key"
    assert need("/v1/steering/profiles/{name}", "PUT") == need("/v1/steering/profiles/{name}", "DELETE") == "profiles"
    assert need("/v1/steering/profiles/{name}/file", "GET") == "profiles"
    assert need("/v1/steering/jobs/{job_id}/events", "GET") == need("/v1/steering/jobs", "POST") == "jobs"
    assert need("/v1/responses", "POST") == need("/v1/steering/verify", "POST") == "chat"
    assert need("/health", "GET") == "key" and need("/health/live", "GET") == "open"


def test_every_scope_but_the_one_of_corrections_opens_something() -> None:
    assert {n for row in TABLE.values() for n in row} == {"open", "key", *SCOPES} - {"steer:custom"}


CALLS = {
    "chat": [("POST", "/v1/chat/completions"), ("POST", "/v1/completions")],
    "trace": [("POST", "/v1/steering/lens"), ("GET", "/v1/steering/traces/chatcmpl-0")],
    "admin": [("GET", "/metrics"), ("GET", "/v1/steering/config")],
    "key": [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/tiny"),
        ("GET", "/v1/steering/profiles"),
        ("GET", "/v1/steering/profiles/candid"),
        ("GET", "/v1/steering/profiles/candid/card"),
        ("GET", "/v1/me"),
        ("GET", "/health"),
        ("GET", "/version"),
        ("GET", "/openapi.json"),
    ],
}


def code(live: Live, method: str, path: str, key: str) -> str:
    body = {"model": "tiny", "messages": HELLO} if "chat" in path else {"model": "tiny", "prompt": "a"}
    reply = live.client.request(method, path, headers=bearer(key), json=body if method == "POST" else None)
    return str(reply.json()["error"]["code"]) if reply.status_code >= 400 else "fine"


def test_U5_a_key_without_the_scope_is_told_which_it_needs(tmp_path: Path, fake: Served) -> None:
    tables = {f"only{i}": {"scopes": [scope]} for i, scope in enumerate(sorted(SCOPES))}
    with keyed(fake, tmp_path, {**tables, "all": EVERYTHING}) as server:
        for needed, calls in CALLS.items():
            for method, path in calls:
                for i, scope in enumerate(sorted(SCOPES)):
                    got = code(server.live, method, path, f"only{i}")
                    assert (got == "insufficient_scope") == (needed not in (scope, "key")), (method, path, scope)
                assert code(server.live, method, path, "all") != "insufficient_scope"
        reply = server.live.chat(bearer("only0"))
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (403, "permission_error", None)
    assert "the scope chat" in error["message"] and "this one has admin" in error["message"]
    assert reply.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="chat"'


@pytest.fixture(scope="module")
def every_scope(model: LanguageModel, store: PackStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A key for each scope, and one for all but it."""
    served = Served(model, FakeEngine(model), store, None, created=1)  # type: ignore[arg-type]
    tables = {f"only{i}": {"scopes": [scope]} for i, scope in enumerate(sorted(SCOPES))}
    tables |= {f"but{i}": {"scopes": sorted(SCOPES - {scope})} for i, scope in enumerate(sorted(SCOPES))}
    with keyed(served, tmp_path_factory.mktemp("keys"), tables) as server:
        yield server.live


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_U5_every_route_asks_for_exactly_its_scope(every_scope: Live, path: str, method: str) -> None:
    """Of whichever routes there come to be."""
    needed = need(path, method)
    for i, scope in enumerate(sorted(SCOPES)):
        for name, has in ((f"only{i}", needed in (scope, "key", "open")), (f"but{i}", needed != scope)):
            reply = every_scope.client.request(method, re.sub(r"\{[^}]*\}", "x", path), headers=bearer(name))
            refused = reply.status_code == 403 and f"the scope {needed};" in reply.json()["error"]["message"]
            assert refused != has and reply.status_code != 401, (name, reply.text)


@pytest.mark.parametrize("path", ["/metrics", "/v1/steering/lens"])
@pytest.mark.parametrize(
    "spelling", ["{}%0A", "{}/", "/{}", "{}/..", "/.{}", "{}?x=/v1/me", "{}#", "/v1/me/..{}", "{}%00"]
)
def test_U3_no_way_round_a_scope_by_the_path(tmp_path: Path, fake: Served, path: str, spelling: str) -> None:
    """The matched route decides: a trailing newline matches a route's pattern, and is that route."""
    method, head = "POST" if "lens" in path else "GET", "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    request = f"{method} {spelling.format(path)} {head}Authorization: {bearer('chat')['authorization']}\r\n\r\n"
    with (
        keyed(fake, tmp_path, {"chat": {}}) as server,
        socket.create_connection(("127.0.0.1", server.live.port), timeout=5) as client,
    ):
        client.sendall(request.encode())
        reply = b"".join(iter(partial(client.recv, 65536), b""))
    assert reply.split()[1] in (b"400", b"403", b"404", b"405"), reply
    assert b"unsway_" not in reply and b"layers" not in reply


def test_the_scope_is_asked_for_before_anything_else(tmp_path: Path, fake: Served) -> None:
    """Before the body is read, and whatever state the engine is in."""
    with keyed(fake, tmp_path, {"jobs": {"scopes": ["jobs"]}}) as server:
        reply = server.live.client.post("/v1/chat/completions", content=b"{", headers=bearer("jobs"))
        assert reply.json()["error"]["code"] == "insufficient_scope"


def test_wrong_methods_and_unknown_paths_are_those_to_any_key(tmp_path: Path, fake: Served) -> None:
    with keyed(fake, tmp_path, {"jobs": {"scopes": ["jobs"]}}) as server:
        ask = server.live.client.request
        assert ask("DELETE", "/metrics", headers=bearer("jobs")).status_code == 405
        assert ask("GET", "/v1/nope", headers=bearer("jobs")).status_code == 404


@pytest.mark.parametrize("steering", [{"trace": "tokens"}, '{"trace": "tokens"}', {"mode": "off", "trace": "tokens"}])
def test_a_trace_of_tokens_needs_its_scope(tmp_path: Path, fake: Served, steering: object) -> None:
    with keyed(fake, tmp_path, {"chat": {}, "both": {"scopes": ["chat", "trace"]}}) as server:
        reply = server.live.chat(bearer("chat"), steering=steering)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (403, "insufficient_scope", "steering.trace")
        assert server.live.complete(bearer("chat"), steering=steering).status_code == 403
        header = {"x-steering-profile": "candid;trace=tokens"}
        assert server.live.chat(bearer("chat") | header).status_code == 403
        assert server.live.chat(bearer("both"), steering=steering).status_code == 200
        assert server.live.chat(bearer("both") | header).status_code == 200
        assert server.live.chat(bearer("chat"), steering={"trace": "summary"}).status_code == 200


def test_corrections_of_ones_own_need_their_scope(tmp_path: Path, fake: Served) -> None:
    own = {"corrections": [{"site": "attn_z.1", "groups": [0], "scale": 0.0}]}
    with keyed(fake, tmp_path, {"chat": {}, "both": {"scopes": ["chat", "steer:custom"]}}) as server:
        for steering in (own, {**own, "profile": "candid"}, json.dumps(own)):
            error = server.live.chat(bearer("chat"), steering=steering).json()["error"]
            assert (error["code"], error["param"]) == ("insufficient_scope", "steering.corrections")
            assert server.live.complete(bearer("chat"), steering=steering).status_code == 403
            assert server.live.chat(bearer("both"), steering=steering).status_code == 200
        assert server.live.chat(bearer("chat"), steering={"corrections": []}).status_code == 200


def test_law_a_key_passes_iff_it_has_the_scope() -> None:
    for count in range(len(SCOPES) + 1):
        for held in combinations(sorted(SCOPES), count):
            caller = Caller("k", frozenset(held))
            for scope in SCOPES:
                try:
                    require(caller, scope)
                except ApiError as error:
                    assert scope not in held and error.code == "insufficient_scope"
                else:
                    assert scope in held
