"""One server process: sockets in, an exit code out."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from importlib.metadata import version
from typing import NoReturn

import uvicorn
from rich.console import Console
from rich.table import Table

from server.app import create_app
from server.async_engine import AsyncEngine
from server.configuration import Configuration
from server.jobs.supervisor import Jobs
from server.logs import logging_config
from server.serving import Served, load
from server.settings import Settings
from server.size import readable
from steering.engine.engine import Engine
from steering.model.loading import BUNDLED

MAX_HEADERS = 64 * 1024
KEEP_ALIVE = 30
SCENARIO = "#scenario=sure"
"""Part of the page's address at which it shows the bundled model cave and hold."""
DRAIN_TIMEOUT = 10
"""Seconds that connections have to take what was written to them at shutdown."""


class Server(uvicorn.Server):
    """At shutdown open answers end with an error of their own; uvicorn alone would wait for them, then cut them."""

    def __init__(self, config: uvicorn.Config, engine: AsyncEngine, jobs: Jobs | None) -> None:
        super().__init__(config)
        self.engine, self.jobs = engine, jobs

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.engine.stop()
        if self.jobs is not None:
            self.jobs.end_streams()
        await super().shutdown(sockets)


def run(configuration: Configuration, listener: socket.socket) -> int:
    """Serves until told to stop. Returns the exit code: 0, 2 if loading failed, 1 if the engine died."""
    settings = configuration.settings
    console = Console(highlight=False)
    console.print(f"Unsway {version('unsway')}: loading {settings.model} ...")

    def on_change(engine: AsyncEngine) -> None:
        if engine.state == "ready":
            console.print(_welcome(settings, engine.require_ready(), listener))
        elif engine.state in ("failed", "dead"):
            web.should_exit = True

    engine = AsyncEngine(lambda: load(settings), capacity=settings.max_rows + settings.queue, on_change=on_change)
    app = create_app(settings, engine, configuration.sources)
    config = uvicorn.Config(
        app,
        http="h11",  # httptools has no limit on headers
        ws="none",
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,  # whose to believe is for the operator to say
        log_config=logging_config(settings.log_format),
        access_log=False,  # the application logs its requests itself
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEADERS,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=DRAIN_TIMEOUT,
    )
    web = Server(config, engine, app.state.jobs)
    signal.signal(signal.SIGTERM, _exit_cleanly)  # uvicorn raises the signal once more when it is done
    with suppress(KeyboardInterrupt):
        web.run(sockets=[listener])
    if engine.failure is None:
        return 0
    reason = " ".join(str(engine.failure).split()) or type(engine.failure).__name__
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"unsway: {reason}", markup=False)
    return 2 if engine.state == "failed" else 1


def _exit_cleanly(signum: int, frame: object) -> NoReturn:
    raise SystemExit(0)


def _welcome(settings: Settings, served: Served, listener: socket.socket) -> Table:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  for display only
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    names = [f"{p.name} (default)" if p.name == served.default_profile else p.name for p in served.profiles()]
    if settings.asks_for_key:
        access = f"with an API key{f' of {settings.keys}' if settings.keys else ''}"
    elif settings.no_auth:
        access = "open to everyone who can reach it (--no-auth)"
    else:
        access = "this machine only, no key"
    form = ", ".join(filter(None, [str(served.model.dtype).removeprefix("torch."), served.model.quantized]))
    rows = {
        "Model": f"{served.model.name} ({served.model.device.type}, {form})",
        "KV memory": _kv_memory(served.engine),
        "Speed": _speed(served.engine),
        "Profiles": ", ".join(names) or f"none yet: unsway calibrate {settings.model}",
        **_uploads(settings, served),
        "Page": f"{url}/{SCENARIO}" if settings.model == BUNDLED and served.default_profile else f"{url}/",
        "API": f"{url}/v1",
        "Access": access,
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(f"  [bold]{name}[/bold]", value)
    return table


def _uploads(settings: Settings, served: Served) -> dict[str, str]:
    if served.uploads is None:
        return {}
    return {
        "Uploads": str(settings.uploads) if served.uploads.folder.refusal is None else served.uploads.folder.refusal
    }


def _speed(engine: Engine) -> str:
    """What the start found to be faster."""
    speed = engine.speed
    rounded = ", rounded" if speed.rounded else ""
    size = f"{readable(speed.packed_bytes)}{rounded}"
    packed = f"{speed.num_packed} linears packed ({size})" if speed.num_packed else "plain linears"
    threads = "1 thread" if speed.num_threads == 1 else f"{speed.num_threads} threads"
    return f"{packed}, {'compiled' if speed.compiled else 'not compiled'}, {threads}"


def _kv_memory(engine: Engine) -> str:
    """What keys and values take, and what had to give way to a budget."""
    kv, wanted = engine.kv, engine.kv_wanted
    each = readable(kv.bytes_per_token)
    line = f"{readable(kv.budget)}, {each}/token; up to {kv.rows} rows and {kv.context} tokens a row"
    return line if kv == wanted else f"{line} (cut from {wanted.rows} and {wanted.context})"
