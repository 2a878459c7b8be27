"""By which names a server may be called: a page can point a name of its own at this machine (DNS rebinding)."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ApiError, error_response
from server.settings import Settings, is_loopback

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/?#@\s]+)(:[0-9]*)?", re.IGNORECASE)
_OWN = frozenset({"localhost", "127.0.0.1", "[::1]"})


def allowed_hosts(settings: Settings) -> frozenset[str] | None:
    """None: any. A browser can be made to call a server that asks for no key and listens to this machine alone, so
    that one answers to its own names only; every other, where names are given."""
    given = {name.strip().lower() for name in (settings.allowed_hosts or "").split(",")} - {""}
    closed = is_loopback(settings.host) and not settings.asks_for_key
    if "*" in given or not (given or closed):
        return None
    bound = f"[{settings.host}]" if ":" in settings.host else settings.host
    return frozenset({*_OWN, bound.lower(), *given})


class AllowedHosts:
    """Pure ASGI middleware: any other `Host` is refused, on every path."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_ours(scope):
            await self.app(scope, receive, send)
            return
        message = "This server does not answer to the name in the header Host; --allowed-hosts names more."
        await error_response(ApiError("invalid_host", message), scope)(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        named = [value for name, value in scope["headers"] if name == b"host"]
        match = _HOST.fullmatch(named[0].decode("latin-1")) if len(named) == 1 else None
        return match is not None and match[1].lower() in self.hosts
