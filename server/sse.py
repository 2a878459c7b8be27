"""Server-sent events: one `data:` frame per chunk."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"


def frame(payload: Mapping[str, object]) -> bytes:
    return (
        b"data: " + json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n\n"
    )


def event_frame(event_id: int | None, name: str, payload: Mapping[str, object]) -> bytes:
    """Of the standard form: a name and, where a client may come back for what follows, a number."""
    number = b"" if event_id is None else b"id: %d\n" % event_id
    return number + b"event: " + name.encode() + b"\n" + frame(payload)


class EventStream(Response):
    """Sends frames as they come. However it ends, the frames' generator is closed before the call returns."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes, frames: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        self.first, self.frames = first, frames
        self.status_code = 200
        self.background = None
        # Proxies (nginx) would otherwise hold the stream back.
        self.init_headers({**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.frames) as frames:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.first, "more_body": True})
            async for data in frames:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
