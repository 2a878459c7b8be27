"""Whose request it is: among whom the engine is shared out. Never by what a caller can set freely.

With keys it is the key, as a digest; without, the address. The fields `user` and `safety_identifier` are the caller's
own words, and headers of proxies are too, unless uvicorn is told whose to believe (`FORWARDED_ALLOW_IPS`).
"""

from __future__ import annotations

import ipaddress

from starlette.types import Scope

_KEY = "unsway.key_digest"
_SCOPES = "unsway.scopes"
"""Of the key; absent where callers are not told apart."""
_IPV6_PREFIX = 64
"""Bits of an address that a network is given; it may choose among the rest, and so is one caller."""


def set_key(scope: Scope, digest: bytes) -> None:
    """The request came with a valid key."""
    scope[_KEY] = digest.hex()


def caller_of(scope: Scope) -> str:
    if key := scope.get(_KEY):
        return f"key:{key}"
    host = str(scope["client"][0]) if scope.get("client") else ""
    return f"address:{_network(host)}"


def is_admin(scope: Scope) -> bool:
    """Whether it may change what belongs to others. With one key, or none, everybody may: they are one operator."""
    scopes = scope.get(_SCOPES)
    return scopes is None or "admin" in scopes


def _network(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a socket without one
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), _IPV6_PREFIX), strict=False))
