"""Every code of an error, as a client gets it over HTTP from a server that has come to it."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import torch
from starlette.exceptions import HTTPException

from server import deps, errors
from server.errors import _KINDS
from server.jobs import obstacles
from server.jobs.kinds import KINDS
from server.serving import Served
from server.settings import Settings
from steering.errors import OverMemoryBudget
from steering.store import PackStore
from steering.uploads import Quota
from tests.evaluation.fakes import write_data
from tests.models import tiny_model
from tests.one_file import forged, simple
from tests.server.fake_engine import DEATH_SEED, FakeEngine
from tests.server.jobs.kinds import EVALUATE, PATH, seeded
from tests.server.keyed import bearer, keyed
from tests.server.live import HELLO, Live, serve
from tests.server.packs import save_packs
from tests.server.refusals import LASTING, user
from tests.server.uploads import MODEL, ONE, TWO, put, with_uploads

JSON = {"content-type": "application/json"}
MOST = 200_000
ONE_UPLOAD = Quota(packs=1, size=2**30, packs_each=1, size_each=2**30)


@dataclass
class World:
    """Servers, one for each kind of trouble, that stay as they are."""

    open: Live
    """Profiles (candid is its default), one upload, `mine`, and no place for another; jobs that count."""
    bare: Live
    """No default profile, no uploads, no jobs, and a queue without a place."""
    locked: Live
    """Asks for a key: `chat` has only that scope; `listed` may use candid, `once` ask once a minute."""
    packs: Path
    patch: pytest.MonkeyPatch
    """Undone after each row."""

    @contextmanager
    def another(self, **options: Any) -> Iterator[Live]:
        """A server that may come to its end."""
        served = self.served(FakeEngine(MODEL, delay=0.01))
        load = options.pop("load", lambda served: served)
        with serve(lambda: load(served), **options) as live:
            yield live

    def served(self, engine: FakeEngine, default: str | None = "candid") -> Served:
        return Served(MODEL, engine, PackStore(self.packs, MODEL), default, 1)  # type: ignore[arg-type]


Row = Callable[[World], httpx.Response]


class Told(NamedTuple):
    """Of one code: where in the request the fault is, and how to come to it."""

    param: str | None
    row: Row


def chat(**fields: Any) -> Row:
    return lambda world: world.open.chat(**fields)


def posted(body: str) -> Row:
    return lambda world: world.open.post(body)


def got(path: str) -> Row:
    return lambda world: world.open.client.get(path)


def sent(raw: bytes, name: str = "mine", **headers: str) -> Row:
    """An upload in the place of the one that is there, unless headers say otherwise."""
    return lambda world: put(world.open, raw, name, **(headers or {"if_match": "*"}))


def failing(error: Exception) -> Row:
    """The engine cannot take a request."""

    def row(world: World) -> httpx.Response:
        def fail(request: object) -> None:
            raise error

        world.patch.setattr(world.open.served.engine, "add", fail)
        return world.open.chat()

    return row


def with_vector(vector: torch.Tensor) -> Row:
    return sent(forged(TWO, corrections__2__vector=vector))


def slow(world: World) -> httpx.Response:
    def pieces() -> Iterator[bytes]:
        yield b"{"
        time.sleep(0.5)
        yield b"}"

    world.patch.setattr(deps, "BODY_TIMEOUT", 0.1)
    return world.open.client.post("/v1/chat/completions", content=pieces(), headers=JSON)


def large(world: World) -> httpx.Response:
    return put(world.open, bytes(MOST + 1), if_match="*")


def twice(world: World) -> httpx.Response:
    """The same job, while it runs."""
    first = world.open.client.post(PATH, json=EVALUATE | {"seed": 10_000})
    assert first.status_code == 201, first.text
    try:
        return world.open.client.post(PATH, json=EVALUATE | {"seed": 10_000})
    finally:
        world.open.client.delete(first.headers["location"])


def full_disk(world: World) -> httpx.Response:
    world.patch.setattr(obstacles, "LEAST_DISK", 2**80)
    return world.open.client.post(PATH, json=EVALUATE | {"seed": 1})


def too_often(world: World) -> httpx.Response:
    assert world.locked.chat(bearer("once")).status_code == 200
    return world.locked.chat(bearer("once"))


def unscoped(world: World) -> httpx.Response:
    return world.locked.client.get("/v1/steering/config", headers=bearer("chat"))


def loading(world: World) -> httpx.Response:
    loaded = threading.Event()
    with world.another(load=lambda served: loaded.wait(10) and served, wait=False) as live:
        reply = live.chat()
        loaded.set()
        live.wait_until(lambda: live.engine.state == "ready")
    return reply


def dying(world: World) -> httpx.Response:
    with world.another() as live:
        return live.chat(seed=DEATH_SEED)


def draining(world: World) -> httpx.Response:
    with world.another() as live:
        assert live.chat().status_code == 200
        live.engine.stop()
        return live.chat()


def shut_down(world: World) -> httpx.Response:
    with world.another() as live, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(live.chat, seed=0)
        live.wait_until(lambda: live.engine.num_open == 1)
        live.engine.stop()
        return waiting.result(10)


IMAGE = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
ROWS: Mapping[tuple[int, str], Mapping[str, Told]] = {
    (400, "invalid_request_error"): {
        "array_above_max_length": Told("stop", chat(stop=["a"] * 5)),
        "array_below_min_length": Told("messages", chat(messages=[])),
        "conflicting_steering": Told("steering.profile", chat(model="tiny+firm", steering="candid")),
        "context_length_exceeded": Told("messages", chat(messages=user("x" * 10_000))),
        "decimal_above_max_value": Told("temperature", chat(temperature=2.1)),
        "decimal_below_min_value": Told("temperature", chat(temperature=-0.1)),
        "duplicate_key": Told("steering", posted('{"steering": false, "steering": true}')),
        "integer_above_max_value": Told("n", chat(n=17)),
        "integer_below_min_value": Told("n", chat(n=0)),
        "invalid_host": Told(None, chat(headers={"host": "evil.example"})),
        "invalid_json": Told(None, posted('{"a":')),
        "invalid_name": Told("steering.profile", chat(steering={"profile": "../x"})),
        "invalid_tensor_file": Told(None, with_vector(torch.ones(64, dtype=torch.complex64))),
        "invalid_type": Told("n", chat(n="1")),
        "invalid_unicode": Told("messages.0.content", posted('{"messages": [{"content": "\\ud800"}]}')),
        "invalid_value": Told("steering.mode", chat(steering={"mode": "onn"})),
        "layer_out_of_range": Told("steering.corrections.0.site", chat(steering={"corrections": [
            {"site": "mlp_act.99", "neurons": [0], "scale": 0.0}]})),
        "missing_required_parameter": Told("messages", posted('{"model": "tiny"}')),
        "no_default_profile": Told("steering.profile", lambda world: world.bare.chat(steering=True)),
        "non_finite_number": Told("temperature", posted('{"temperature": NaN}')),
        "profile_model_mismatch": Told("steering.profile", chat(steering="alien")),
        "profile_observe_only": Told("steering.mode", chat(steering="watch")),
        "shape_mismatch": Told(None, with_vector(torch.ones(63))),
        "string_above_max_length": Told("model", chat(model="x" * 513)),
        "string_below_min_length": Told("model", chat(model="")),
        "template_error": Told("messages", chat(messages=HELLO * 2)),
        "unknown_parameter": Told("temprature", chat(temprature=1)),
        "unsupported_content": Told("messages.0.content.0", chat(messages=user([IMAGE]))),
        "unsupported_file_format": Told(None, sent(b"PK\3\4" + bytes(100))),
        "unsupported_parameter": Told("functions", chat(functions=[{"name": "f"}])),
    },
    (401, "authentication_error"): {
        "invalid_api_key": Told(None, lambda world: world.locked.chat(bearer("nobody"))),
        "missing_api_key": Told(None, lambda world: world.locked.chat()),
    },
    (403, "permission_error"): {
        "insufficient_scope": Told(None, unscoped),
        "profile_quota_exceeded": Told(None, sent(simple(MODEL, "more")[0], "more", if_none_match="*")),
        "profile_read_only": Told(None, lambda world: put(world.bare, ONE)),
        "steering_policy": Told("steering.profile", lambda world: world.locked.chat(bearer("listed"), steering="firm")),
    },
    (404, "invalid_request_error"): {
        "job_not_found": Told("job_id", got(f"{PATH}/job_0")),
        "model_not_found": Told("model", chat(model="gpt-5")),
        "not_found": Told(None, got("/v1/nope")),
        "steering_profile_not_found": Told("steering.profile", chat(steering="nobody")),
        "trace_not_found": Told("request_id", got("/v1/steering/traces/chatcmpl-0")),
    },
    (405, "invalid_request_error"): {"method_not_allowed": Told(None, got("/v1/chat/completions"))},
    (408, "timeout_error"): {"request_timeout": Told(None, slow)},
    (409, "conflict_error"): {
        "job_already_running": Told(None, twice),
        "profile_exists": Told("name", sent(ONE, if_none_match="*")),
        "profile_in_use": Told("name", lambda world: world.open.client.delete("/v1/steering/profiles/candid")),
    },
    (412, "invalid_request_error"): {"etag_mismatch": Told(None, sent(ONE, if_match='"0000"'))},
    (413, "invalid_request_error"): {"request_too_large": Told(None, large)},
    (415, "invalid_request_error"): {"unsupported_media_type": Told(None, sent(ONE, content_type="text/plain"))},
    (429, "rate_limit_error"): {
        "queue_full": Told(None, lambda world: world.bare.chat()),
        "rate_limit_exceeded": Told(None, too_often),
    },
    (500, "server_error"): {
        "internal_error": Told(None, failing(KeyError("/etc/passwd"))),
        "numerical_error": Told(None, chat(seed=14)),
    },
    (503, "service_unavailable_error"): {
        "draining": Told(None, draining),
        "engine_dead": Told(None, dying),
        "jobs_unavailable": Told(None, lambda world: world.bare.client.get(PATH)),
        "model_loading": Told(None, loading),
        "over_memory_budget": Told(None, failing(OverMemoryBudget("memory ran out."))),
        "profile_unavailable": Told("steering.profile", chat(steering="broken")),
        "server_shutdown": Told(None, shut_down),
    },
    (507, "server_error"): {"storage_full": Told(None, full_disk)},
}  # fmt: skip
CASES = [(status, kind, code) for (status, kind), rows in ROWS.items() for code in rows]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("servers")
    save_packs(folder / "packs", MODEL, tiny_model(seed=1))
    working = {"jobs": folder / "jobs", "benchmarks": write_data(folder / "data"), "max_upload": f"{MOST}B"}
    engine = FakeEngine(MODEL, error_at={14: 0})
    full = with_uploads(folder / "up", engine, packs=folder / "packs", default="candid", quota=ONE_UPLOAD)
    keys = {"chat": {}, "listed": {"policy": {"profiles": ["candid"]}}, "once": {"limits": {"requests_per_minute": 1}}}
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(KINDS, "evaluate", seeded(0.05))  # type: ignore[misc]
        world = World(None, None, None, folder / "packs", patched)  # type: ignore[arg-type]
        bare, locked = (world.served(FakeEngine(MODEL), default) for default in (None, "candid"))
        with (
            serve(lambda: full, Settings(**working)) as world.open,
            serve(lambda: bare, capacity=0) as world.bare,
            keyed(locked, folder, keys) as door,
        ):
            world.locked = door.live
            assert put(world.open, ONE).status_code == 201
            yield world


@pytest.fixture
def world(servers: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    servers.patch = monkeypatch
    yield servers
    monkeypatch.undo()
    servers.open.wait_until(lambda: servers.open.engine.num_open == 0)
    assert servers.open.chat(steering="mine").status_code == 200  # as if nothing had been


@pytest.mark.parametrize(("status", "kind", "code"), CASES, ids=[code for *_, code in CASES])
def test_every_code_comes_over_http(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int, kind: str, code: str
) -> None:
    counted, note = Counter[str](), errors.note
    monkeypatch.setattr(errors, "note", lambda error, scope: (counted.update([error.code]), note(error, scope)))
    param, row = ROWS[status, kind][code]
    reply = row(world)
    body = reply.json()
    assert body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}, reply.text
    error = body["error"]
    assert (reply.status_code, error["type"], error["code"], error["param"]) == (status, kind, code, param), reply.text
    assert reply.headers["content-type"] == "application/json" and reply.headers["x-request-id"]
    assert counted == {code: 1}, "counted once"
    assert_readable(error["message"])
    if status in (429, 503):
        assert re.fullmatch(r"[1-9]|[1-5]\d|60", reply.headers["retry-after"])
    else:
        assert "retry-after" not in reply.headers
    assert reply.headers.get("x-should-retry") == ("false" if code in LASTING else None)
    assert status != 401 or reply.headers["www-authenticate"] == "Bearer"
    assert status != 405 or reply.headers["allow"] == "POST"
    assert status >= 500 or ("Traceback" not in caplog.text and not [r for r in caplog.records if r.exc_info])


def assert_readable(message: str) -> None:
    """A sentence of bounded length that tells nothing of the inside."""
    assert 10 < len(message) <= 2000 and len(message.encode()) <= 2048 and message.isprintable()
    assert message.endswith((".", "?")) and "Traceback" not in message and ".py" not in message
    assert not re.search(r"(?<![\w.*])/(?!v1/)\w+|[A-Z]:\\|0x[0-9a-f]{4}|object at|Error\(", message), message


def test_a_row_for_every_code_and_no_other() -> None:
    """A new code needs a row here; one that nothing can come to is not to be in the table."""
    assert {code: (status, kind) for status, kind, code in CASES} == _KINDS


def test_what_starlette_may_raise_besides_is_an_error_of_this_server(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no such status today; were there one, it would be told and logged, not passed through."""

    def refuse(*_: object) -> None:
        raise HTTPException(418, "in /etc/passwd")

    world.patch.setattr("server.routes.chat.prepare", refuse)
    reply = world.open.chat()
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error") and "passwd" not in reply.text
    assert reply.headers["x-request-id"] in caplog.text and "418" in caplog.text
