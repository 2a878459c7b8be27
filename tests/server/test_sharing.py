"""Whose turn it is over HTTP: callers share the engine by key, else by address; `service_tier: flex` steps back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from server.app import create_app
from server.async_engine import AsyncEngine
from server.caller import caller_of
from server.serving import Served
from server.settings import Settings
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.server.fake_engine import FakeEngine
from tests.server.live import HELLO, Live

KEY = "sk-secret-42"
Connect = Callable[..., httpx.AsyncClient]


@asynccontextmanager
async def running(served: Served, settings: Settings | None = None, *, capacity: int = 64) -> AsyncIterator[Connect]:
    """The application without a socket: clients choose the address that they come from."""
    engine = AsyncEngine(lambda: served, capacity=capacity)
    app = create_app(settings or Settings(), engine)

    def connect(address: str = "10.0.0.1", **headers: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, client=(address, 5000))
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers, timeout=60)

    async with app.router.lifespan_context(app):
        while engine.state == "loading":
            await asyncio.sleep(0.002)
        yield connect


async def chat(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "messages": HELLO, "seed": 1} | fields
    return await client.post("/v1/chat/completions", json=body)


class Recorder(FakeEngine):
    def add(self, request: Request) -> None:
        self.__dict__.setdefault("added", []).append(request)
        super().add(request)


@pytest.fixture
def recorded(model: LanguageModel, store: PackStore) -> tuple[Served, list[Request]]:
    engine = Recorder(model)
    engine.__dict__["added"] = []
    return Served(model, engine, store, None, 1), engine.__dict__["added"]  # type: ignore[arg-type]


async def test_without_keys_a_caller_is_its_address_whatever_it_says(recorded: tuple[Served, list[Request]]) -> None:
    served, added = recorded
    forged = {"x-forwarded-for": "10.9.9.9", "forwarded": "for=10.9.9.9", "x-real-ip": "10.9.9.9", "x-request-id": "b"}
    async with running(served) as connect:
        for client in (connect("10.0.0.1"), connect("10.0.0.1", **forged), connect("10.0.0.2")):
            assert (await chat(client, user="Ada", safety_identifier="x")).status_code == 200
        assert (
            await connect("10.0.0.1").post("/v1/completions", json={"model": "tiny", "prompt": ["a", "b"]})
        ).is_success
    first, second, other, *texts = (request.key for request in added)
    assert first == second == "address:10.0.0.1" and other == "address:10.0.0.2"
    assert texts == [first, first]


async def test_with_keys_a_caller_is_the_digest_of_its_key(recorded: tuple[Served, list[Request]]) -> None:
    served, added = recorded
    async with running(served, Settings(api_key=KEY)) as connect:
        for address in ("10.0.0.1", "10.0.0.2"):
            assert (await chat(connect(address, authorization=f"bearer  {KEY}"))).status_code == 200
        assert (await chat(connect(authorization="Bearer wrong"))).status_code == 401
    first, second = (request.key for request in added)
    assert first == second and first.startswith("key:") and KEY not in first and "10.0" not in first


def test_a_network_is_one_caller_however_many_addresses_it_has() -> None:
    def caller(host: str) -> str:
        return caller_of({"type": "http", "client": (host, 1)})

    assert caller("2001:db8:1:2::1") == caller("2001:db8:1:2:ffff::9") == "address:2001:db8:1:2::/64"
    assert caller("2001:db8:1:3::1") != caller("2001:db8:1:2::1")
    assert caller("::ffff:10.0.0.1") == caller("10.0.0.1")
    assert caller("10.0.0.1") != caller("10.0.0.2")
    assert caller_of({"type": "http", "client": None}) == caller_of({"type": "http"}) == "address:"
    assert caller("a socket") == "address:a socket"


async def test_O6_a_flood_of_one_caller_leaves_others_their_turn(model: LanguageModel, store: PackStore) -> None:
    engine = Engine(model, EngineConfig(max_rows=1))
    served, ended = Served(model, engine, store, None, 1), list[str]()
    long: dict[str, Any] = {"max_tokens": 32, "temperature": 0, "ignore_eos": True}

    async def ask(client: httpx.AsyncClient, name: str) -> None:
        assert (await chat(client, **long)).status_code == 200
        ended.append(name)

    async with running(served) as connect, connect("10.0.0.1") as flood, connect("10.0.0.2") as other:
        asked = [asyncio.create_task(ask(flood, "flood")) for _ in range(40)]
        while len(ended) < 2:
            await asyncio.sleep(0.002)
        for _ in range(4):
            await ask(other, "other")
        waited = ended.index("other") - 2, ended.count("flood")
        await asyncio.gather(*asked)
    assert waited[0] <= 3 and waited[1] <= 16, "they take turns from the moment they come"
    assert ended[-10:] == ["flood"] * 10 and len(ended) == 44


async def test_O6_a_flood_that_fills_the_queue_gives_way_to_others(fake: Served) -> None:
    """Callers come to hold as many places as each other; what has begun is never taken back."""
    gate = threading.Event()
    fake.engine.gate = gate  # type: ignore[attr-defined]
    async with running(fake, capacity=8) as connect, connect("10.0.0.1") as flood, connect("10.0.0.2") as other:
        asked = [asyncio.create_task(chat(flood)) for _ in range(8)]
        while (await flood.get("/health")).json()["requests_open"] < 8:
            await asyncio.sleep(0.01)
        assert (await chat(flood)).json()["error"]["code"] == "queue_full"
        taken = [asyncio.create_task(chat(other)) for _ in range(4)]
        while sum(task.done() for task in asked) < 4:
            await asyncio.sleep(0.01)
        assert (await chat(other)).json()["error"]["code"] == "queue_full", "they hold as many by now"
        assert sum(task.done() for task in asked) == 4 and not any(task.done() for task in taken)
        gate.set()
        replies = await asyncio.gather(*asked, *taken)
    assert sorted(reply.status_code for reply in replies[:8]) == [200] * 4 + [429] * 4
    assert all(reply.status_code == 200 for reply in replies[8:])
    refused = [reply for reply in replies if reply.status_code == 429]
    assert all(reply.json()["error"]["code"] == "queue_full" and reply.headers["retry-after"] for reply in refused)


async def test_flex_lets_all_others_go_first(model: LanguageModel, store: PackStore) -> None:
    engine = Engine(model, EngineConfig(max_rows=1))
    served, ended = Served(model, engine, store, None, 1), list[str]()

    async def ask(client: httpx.AsyncClient, tier: str) -> None:
        fields = {"max_tokens": 8, "temperature": 0, "ignore_eos": True, "service_tier": tier}
        assert (await chat(client, **fields)).json()["service_tier"] == ("flex" if tier == "flex" else "default")
        ended.append(tier)

    async with running(served) as connect, connect() as client:
        flex = [asyncio.create_task(ask(client, "flex")) for _ in range(6)]
        while not ended:
            await asyncio.sleep(0.002)
        others = [asyncio.create_task(ask(client, tier)) for tier in ("auto", "default", "priority")]
        await asyncio.gather(*flex, *others)
    assert len(ended) == 9 and ended[-3:] == ["flex"] * 3
    assert max(ended.index(tier) for tier in ("auto", "default", "priority")) <= 5


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("asked", "told"), [("flex", "flex"), *((t, "default") for t in ("auto", "priority", "fast"))])
def test_the_reply_says_which_tier_it_was(live: Live, asked: str, told: str, stream: bool) -> None:
    reply = live.chat(service_tier=asked, stream=stream)
    assert reply.status_code == 200 and "x-ignored-params" not in reply.headers
    assert reply.text.count(f'"service_tier":"{told}"') == (reply.text.count('"object"'))
    assert "service_tier" not in live.chat(stream=stream).text


@pytest.mark.parametrize("value", ["cheap", "FLEX", "", 1, True, ["flex"]])
def test_other_tiers_are_refused(live: Live, value: object) -> None:
    reply = live.chat(service_tier=value)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "service_tier")
    assert error["code"] == ("invalid_value" if isinstance(value, str) else "invalid_type")
    assert "flex" in error["message"]


async def test_null_asks_for_no_tier(recorded: tuple[Served, list[Request]]) -> None:
    served, added = recorded
    async with running(served) as connect:
        assert "service_tier" not in (await chat(connect(), service_tier=None)).json()
        assert (await chat(connect(), service_tier="flex")).json()["service_tier"] == "flex"
    assert [request.priority for request in added] == [0, 1]
