"""A caller -> what `GET /v1/me` tells it about itself."""

from __future__ import annotations

from server.caller import Caller
from server.schemas.keys import KeyLimits, KeyPolicy, Me


def describe(caller: Caller) -> Me:
    told: Me = {
        "object": "key",
        "scopes": sorted(caller.scopes),
        "policy": _policy(caller),
        "limits": _limits(caller),
    }
    if caller.id is not None:
        told["id"] = caller.id
    if caller.steering is not None:
        told["steering"] = caller.steering
    if caller.expires is not None:
        told["expires"] = caller.expires
    return told


def _policy(caller: Caller) -> KeyPolicy:
    told: KeyPolicy = {"may_switch_off": caller.policy.may_switch_off}
    if caller.policy.max_strength is not None:
        told["max_strength"] = caller.policy.max_strength
    if caller.policy.profiles is not None:
        told["profiles"] = sorted(caller.policy.profiles)
    return told


def _limits(caller: Caller) -> KeyLimits:
    told: KeyLimits = {}
    if caller.limits.requests_per_minute is not None:
        told["requests_per_minute"] = caller.limits.requests_per_minute
    if caller.limits.tokens_per_minute is not None:
        told["tokens_per_minute"] = caller.limits.tokens_per_minute
    return told
