"""A real server on a loopback port, in a thread of the test process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.async_engine import AsyncEngine
from server.configuration import Source
from server.process import MAX_HEADERS, Server
from server.serving import Served
from server.settings import Settings
from server.traces import TraceStore

HELLO = [{"role": "user", "content": "Hello there"}]


@dataclass
class Live:
    """The server's address, and what runs in it."""

    port: int
    engine: AsyncEngine
    client: httpx.Client
    traces: TraceStore
    app: FastAPI

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def chat(self, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """One chat request; `fields` beside a model and one message."""
        body = {"model": "tiny", "messages": HELLO, "seed": 1} | fields
        return self.client.post("/v1/chat/completions", json=body, headers=headers)

    def complete(self, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """One completion request; `fields` beside a model and a prompt."""
        body = {"model": "tiny", "prompt": HELLO[0]["content"], "seed": 1} | fields
        return self.client.post("/v1/completions", json=body, headers=headers)

    def post(self, body: bytes | str, **headers: str) -> httpx.Response:
        """A raw body."""
        return self.client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"} | headers
        )

    @property
    def served(self) -> Served:
        return self.engine.require_ready()

    def wait_until(self, condition: Callable[[], bool], seconds: float = 5.0) -> float:
        """Seconds until it held; fails if it never did."""
        start = time.monotonic()
        while not condition():
            assert time.monotonic() - start < seconds, "condition never came true"
            time.sleep(0.002)
        return time.monotonic() - start


@contextmanager
def serve(
    load: Callable[[], Served],
    settings: Settings | None = None,
    *,
    capacity: int = 64,
    wait: bool = True,
    sources: Mapping[str, Source] | None = None,
) -> Iterator[Live]:
    """As `server.process.run` does it, less signals and the console."""
    settings = settings or Settings()
    engine = AsyncEngine(load, capacity=capacity)
    app = create_app(settings, engine, sources)
    config = uvicorn.Config(
        app,
        port=0,
        http="h11",
        ws="none",
        proxy_headers=False,
        log_config=None,
        access_log=False,
        h11_max_incomplete_event_size=MAX_HEADERS,
        timeout_graceful_shutdown=5,
    )
    server = Server(config, engine, app.state.jobs)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.002)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
        live = Live(port, engine, client, app.state.traces, app)
        if wait:
            live.wait_until(lambda: engine.state != "loading", 60)
        yield live
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive(), "the server did not stop"
