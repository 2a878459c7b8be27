"""Who calls, what it may, and among whom the engine is shared out. Never by what a caller can set freely.

With keys it is the key, by its id; without, the address. The fields `user` and `safety_identifier` are the caller's
own words, and headers of proxies are too, unless uvicorn is told whose to believe (`FORWARDED_ALLOW_IPS`).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal, get_args

from starlette.types import Scope

from server.errors import ApiError
from server.schemas.steering import SteeringOptions

KeyScope = Literal["chat", "trace", "steer:custom", "profiles", "jobs", "admin"]
SCOPES: frozenset[KeyScope] = frozenset(get_args(KeyScope))

_CALLER = "unsway.caller"
_IPV6_PREFIX = 64
"""Bits of an address that a network is given; it may choose among the rest, and so is one caller."""


@dataclass(frozen=True)
class Policy:
    """What a key's requests may do to their steering, whichever source asks for it."""

    may_switch_off: bool = True
    """Without, a request may neither be off, observe or compare nor weaken what the key's default says."""
    max_strength: float | None = None
    profiles: frozenset[str] | None = None
    """Those that may steer, by name or `name@digest`; None: all."""


@dataclass(frozen=True)
class Limits:
    """How much a key may use; None: as much as there is."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and answers together."""


@dataclass(frozen=True)
class Caller:
    """On whose behalf a request runs."""

    id: str | None = None
    """Of the key; None where the server asks for none."""
    scopes: frozenset[KeyScope] = frozenset()
    steering: SteeringOptions | None = None
    """What its requests get that say nothing themselves."""
    policy: Policy = Policy()
    limits: Limits = Limits()
    expires: int | None = None
    """Unix seconds."""


LOCAL = Caller(scopes=SCOPES)
"""Whoever can reach a server that asks for no key, and who runs the model in a terminal."""


def require(caller: Caller, scope: KeyScope, what: str = "This", param: str | None = None) -> None:
    """Raises `insufficient_scope`, naming the scope, unless the key has it. what: the thing asked for, as a subject."""
    if scope not in caller.scopes:
        raise ApiError(
            "insufficient_scope",
            f"{what} needs an API key with the scope {scope}; this one has {', '.join(sorted(caller.scopes))}.",
            param,
            {"www-authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
        )


def set_caller(scope: Scope, caller: Caller) -> None:
    """Once it is known; before that nothing may be done in anybody's name."""
    scope[_CALLER] = caller


def caller_in(scope: Scope) -> Caller:
    """Of a request that was let in."""
    caller: Caller = scope[_CALLER]
    return caller


def is_admin(scope: Scope) -> bool:
    """Whether it may change what belongs to others. With one key, or none, everybody may: they are one operator."""
    return "admin" in caller_in(scope).scopes


def key_id(scope: Scope) -> str | None:
    """For logs: None where there is no key, or none that is known yet."""
    caller: Caller | None = scope.get(_CALLER)
    return None if caller is None else caller.id


def caller_of(scope: Scope) -> str:
    """Among whom the engine is shared out, and whose traces, jobs and uploads are."""
    key = key_id(scope)
    return f"address:{network_of(scope)}" if key is None else f"key:{key}"


def address_of(scope: Scope) -> str:
    return str(scope["client"][0]) if scope.get("client") else ""


def network_of(scope: Scope) -> str:
    """The address, of IPv6 its network."""
    host = address_of(scope)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a socket without one
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), _IPV6_PREFIX), strict=False))
