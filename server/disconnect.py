"""A client that leaves cancels its request, streamed or not."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CancelOnDisconnect:
    """Pure ASGI middleware: once the body is in, it watches the connection beside the running application.

    Whatever the application awaits then raises `CancelledError`; the engine's `submit` turns that into an abort.
    A half-closed connection counts as left: the server cannot tell it from a closed one before it writes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body_read, left = asyncio.Event(), asyncio.Event()

        async def receive_body() -> Message:
            if body_read.is_set():
                await left.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.disconnect":
                left.set()
            if not message.get("more_body", False):
                body_read.set()
            return message

        async def watch() -> None:
            await body_read.wait()
            while not left.is_set():
                if (await receive())["type"] == "http.disconnect":
                    left.set()

        application = asyncio.ensure_future(self.app(scope, receive_body, send))
        watcher = asyncio.create_task(watch())
        try:
            await asyncio.wait({application, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if not application.done():
                application.cancel()
            with suppress(asyncio.CancelledError, ClientDisconnect):  # the latter: it left while sending its body
                await application
        finally:
            watcher.cancel()
            application.cancel()
