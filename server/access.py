"""Which scope each route needs: one table, deny by default.

A row covers its route and, unless that is open, what lies below it; of several, the longest. What a row says of reading
holds for GET, what it says of writing for every other method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from starlette.requests import Request

from server.caller import KeyScope, caller_in, require
from server.errors import ApiError

Need = KeyScope | Literal["open", "key"]
"""open: no key either; key: any valid one."""


class Row(NamedTuple):
    reading: Need
    writing: Need

    @property
    def covers(self) -> bool:
        return self.reading != "open"


TABLE: Mapping[str, Row] = {
    "/": Row("open", "open"),
    "/assets/{name}": Row("open", "open"),
    "/health/live": Row("open", "open"),
    "/health/ready": Row("open", "open"),
    "/health": Row("key", "key"),
    "/version": Row("key", "key"),
    "/openapi.json": Row("key", "key"),
    "/metrics": Row("admin", "admin"),
    "/v1/me": Row("key", "key"),
    "/v1/models": Row("key", "key"),
    "/v1/chat/completions": Row("chat", "chat"),
    "/v1/completions": Row("chat", "chat"),
    "/v1/responses": Row("chat", "chat"),
    "/v1/steering/config": Row("admin", "admin"),
    "/v1/steering/lens": Row("trace", "trace"),
    "/v1/steering/traces": Row("trace", "trace"),
    "/v1/steering/verify": Row("chat", "chat"),
    "/v1/steering/profiles": Row("key", "profiles"),
    "/v1/steering/profiles/{name}/file": Row("profiles", "profiles"),
    "/v1/steering/jobs": Row("jobs", "jobs"),
}
OPEN_PATHS = frozenset({"/", "/health/live", "/health/ready"})
"""Served without a key: the page (its calls need the key) and the two probes."""
OPEN_FOLDER = "/assets/"
"""What the page is made of."""


def is_open(path: str) -> bool:
    """Of a request, by its path as it came."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def need(route: str, method: str) -> Need | None:
    """Of a route, by its own spelling (`/v1/models/{model_id:path}`); None: nobody may."""
    rows = [path for path, row in TABLE.items() if route == path or (row.covers and route.startswith(f"{path}/"))]
    if not rows:
        return None
    row = TABLE[max(rows, key=len)]
    return row.reading if method in ("GET", "HEAD") else row.writing


async def check_access(request: Request) -> None:
    """A dependency of every route, which runs before all others.

    Decides by the route that was matched, never by the path: there is no second reading of it to disagree.
    """
    scope, route = request.scope, request.scope["route"].path
    needed = need(route, request.method)
    if needed is None:
        raise ApiError("insufficient_scope", "No API key opens this path.")
    if needed != "open" and needed != "key":
        require(caller_in(scope), needed, f"{request.method} {route}")
