"""What a key's scopes and policy leave of the steering that a request asks for: refused, or clamped and said so."""

from __future__ import annotations

from typing import NoReturn

from server.caller import Caller, require
from server.errors import ApiError
from server.schemas.steering import SteeringOptions
from steering.pack import Pack

_FREE = frozenset({"profile", "strength", "trace"})
"""What a request may choose even if it may not switch off, a strength only upwards."""


def check_scopes(asked: SteeringOptions, caller: Caller) -> None:
    if asked.trace == "tokens":
        require(caller, "trace", "steering.trace tokens", "steering.trace")
    if asked.corrections:
        require(caller, "steer:custom", "steering.corrections", "steering.corrections")


def check_switch(asked: SteeringOptions, caller: Caller) -> None:
    """Where a key may not switch off, nothing may weaken what its default says: a gate that never opens, a strength of
    almost 0 or phases without an answer would be off by another name. What is asked for by whatever source that
    differs from the default is refused, but for `_FREE`; new fields are refused until they are listed there."""
    default = caller.steering
    if caller.policy.may_switch_off or default is None:
        return
    if asked.mode not in (None, "on"):
        _refuse(caller, f"does not allow steering mode {asked.mode}", "steering.mode")
    for name, value in asked:
        if name not in _FREE | {"mode"} and _said(value) != _said(getattr(default, name)):
            _refuse(caller, f"does not allow another {name} than its own", f"steering.{name}")
    least = 1.0 if default.strength is None else default.strength
    if asked.strength is not None and asked.strength < least:
        _refuse(caller, f"does not allow a strength below {least:g}", "steering.strength")


def check_plain(caller: Caller, what: str, param: str) -> None:
    """Refuses what the plain model would say, whatever field asks for it. what: as the subject."""
    if not caller.policy.may_switch_off:
        _refuse(caller, f"does not allow {what}", param)


def check_profile(pack: Pack | None, caller: Caller, param: str) -> None:
    """pack: None for corrections alone, which are of no profile that a policy could name."""
    allowed = caller.policy.profiles
    if allowed is None or (pack is not None and any(_is_named(reference, pack) for reference in allowed)):
        return
    got, where = ("corrections of none", "steering.corrections") if pack is None else (pack.name, param)
    _refuse(caller, f"allows the profiles {', '.join(sorted(allowed))} (got {got})", where)


def _is_named(reference: str, pack: Pack) -> bool:
    """By `name`, or by `name@digest prefix`."""
    name, _, digest = reference.partition("@")
    return name == pack.name and pack.digest.startswith(digest)


def clamped(strength: float, caller: Caller) -> float:
    most = caller.policy.max_strength
    return strength if most is None else min(strength, most)


def _said(value: object) -> object:
    """An empty list says nothing."""
    return None if value == [] else value


def _refuse(caller: Caller, why: str, param: str) -> NoReturn:
    raise ApiError("steering_policy", f"The policy of the API key {caller.id} {why}.", param)
