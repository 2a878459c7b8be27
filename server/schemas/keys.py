"""The keys file: who may call, what for, how much. Read from TOML, which has types of its own."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.caller import KeyScope
from server.schemas.steering import ProfileReference, Steering, SteeringOptions
from server.schemas.strict import Strict

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST = 10**9


def _digest(value: object) -> object:
    """Never says what it got: that may be the secret."""
    if not isinstance(value, str) or _DIGEST.fullmatch(value) is None:
        raise PydanticCustomError("invalid_value", "must be the SHA-256 of the key: 64 digits of 0-9, a-f")
    return value


def _instant(value: object) -> object:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise PydanticCustomError("invalid_type", "must be a date and time with its zone, such as 2027-01-31T00:00:00Z")
    return value


def _distinct(scopes: list[KeyScope]) -> list[KeyScope]:
    if len(set(scopes)) != len(scopes):
        raise PydanticCustomError("invalid_value", "must not name a scope twice")
    return scopes


Instant = Annotated[datetime, BeforeValidator(_instant)]


class PolicyEntry(Strict):
    may_switch_off: bool = True
    max_strength: float | None = Field(default=None, ge=0)
    profiles: Annotated[list[ProfileReference], Field(min_length=1)] | None = None


class LimitsEntry(Strict):
    requests_per_minute: int | None = Field(default=None, ge=1, le=_MOST)
    tokens_per_minute: int | None = Field(default=None, ge=1, le=_MOST)


class KeyEntry(Strict):
    """One key, without its secret."""

    sha256: Annotated[str, BeforeValidator(_digest)]
    scopes: Annotated[list[KeyScope], Field(min_length=1), AfterValidator(_distinct)]
    created: Instant | None = None
    expires: Instant | None = None
    steering: Steering | None = None
    policy: PolicyEntry = PolicyEntry()
    limits: LimitsEntry = LimitsEntry()


class KeyPolicy(TypedDict):
    may_switch_off: bool
    max_strength: NotRequired[float]
    profiles: NotRequired[list[str]]


class KeyLimits(TypedDict):
    requests_per_minute: NotRequired[int]
    tokens_per_minute: NotRequired[int]


class Me(TypedDict):
    """`GET /v1/me`: what a key may, and what it gets. Without keys on the server there is no `id`."""

    object: Literal["key"]
    id: NotRequired[str]
    scopes: list[KeyScope]
    steering: NotRequired[SteeringOptions]
    """What a request gets that says nothing; what is absent, lower sources decide."""
    policy: KeyPolicy
    limits: KeyLimits
    expires: NotRequired[int]
    """Unix seconds."""
