"""Who may call: deny by default."""

from __future__ import annotations

import hashlib
import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from server.caller import set_key
from server.errors import ApiError, error_response

OPEN_PATHS = frozenset({"/", "/health/live", "/health/ready"})
"""Served without a key: the page (its calls need the key) and the two probes."""
OPEN_FOLDER = "/assets/"
"""What the page is made of."""


def is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


class RequireKey:
    """Pure ASGI middleware: every path that is not open needs `Authorization: Bearer KEY`.

    Decides on `scope["path"]`, the very string that is routed by; never on a URL put together from headers.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self.digest = _digest(key.strip().encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._has_key(scope):
            set_key(scope, self.digest)
            await self.app(scope, receive, send)
        elif scope["type"] == "lifespan" or (scope["type"] == "http" and is_open(scope["path"])):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await error_response(_refusal(scope), scope["app"])(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        credentials = _credentials(scope)
        if len(credentials) != 1:
            return False
        scheme, _, key = credentials[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(_digest(key.strip()), self.digest)


def _digest(key: bytes) -> bytes:
    """Keys are compared as digests of equal length, as bytes: `compare_digest` refuses non-ASCII text."""
    return hashlib.sha256(key).digest()


def _credentials(scope: Scope) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == b"authorization"]


def _refusal(scope: Scope) -> ApiError:
    if not _credentials(scope):
        return ApiError("missing_api_key", "This server needs an API key: send the header Authorization: Bearer KEY.")
    return ApiError("invalid_api_key", "Incorrect API key; exactly one header Authorization: Bearer KEY is expected.")
