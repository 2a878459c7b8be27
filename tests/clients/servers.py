"""Beside the live server: one that refuses everything, and what proxies may do to a stream."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from server.errors import ApiError


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """Its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, http="h11", log_config=None, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.002)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def refusing(counts: Counter[tuple[str, str]]) -> Starlette:
    """`POST /{client}/v1/chat/completions`: the error whose code is the model's name, as our server would say it.

    counts: requests by client and code."""

    async def refuse(request: Request) -> Response:
        code = (await request.json())["model"]
        counts[request.path_params["client"], code] += 1
        error = ApiError(code, f"This is the error {code}.", "model")
        return JSONResponse(error.reply(), error.status, error.headers)

    return Starlette(routes=[Route("/{client}/v1/chat/completions", refuse, methods=["POST"])])


def proxying(target: str) -> Starlette:
    """`POST /{way}/chat/completions`: streams of `target`, cut after every byte, all in one piece, or with CR LF."""

    async def forward(request: Request) -> Response:
        body = await request.body()

        async def pieces() -> AsyncIterator[bytes]:
            url = f"{target}/chat/completions"
            async with (
                httpx.AsyncClient(trust_env=False) as client,
                client.stream("POST", url, content=body, headers={"content-type": "application/json"}) as reply,
            ):
                whole = await reply.aread()
            if request.path_params["way"] == "bytes":
                for i in range(len(whole)):
                    yield whole[i : i + 1]
            elif request.path_params["way"] == "crlf":
                yield whole.replace(b"\n", b"\r\n")
            else:
                yield whole

        return StreamingResponse(pieces(), media_type="text/event-stream")

    return Starlette(routes=[Route("/{way}/chat/completions", forward, methods=["POST"])])
