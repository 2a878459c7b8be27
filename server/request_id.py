"""`x-request-id` on every reply: the client's if it is harmless, else our own."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestId:
    """Pure ASGI middleware. The id is for logs and support alone: nothing is ever looked up by it
    (traces are by the id of the reply, which the server alone makes)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _HARMLESS.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        scope["unsway.request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self.app(scope, receive, send_with_id)


def request_id_of(scope: Scope) -> str:
    return str(scope.get("unsway.request_id", "-"))
