"""Which steering a request gets: what its sources ask for, merged key by key, resolved to a plan.

Sources, higher first: body > header > model id > key > server. A source that names a profile or says `true` also says
`on`, unless it gives a mode; one that only refines (a strength, say) leaves the mode to the sources below it.
Corrections that a request brings along go on top of the profile that a source names; where none does they are alone,
and the server's default profile is not among them. What the key may not is refused or clamped last, whichever source
asked for it (`translate.policy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from server.caller import Caller
from server.errors import ApiError, to_api_error
from server.request_json import parse
from server.schemas.steering import SteeringOptions
from server.schemas.violations import validate
from server.serving import Served
from server.translate.custom import exempt_spans, with_corrections
from server.translate.policy import check_profile, check_scopes, check_switch, clamped
from steering.errors import PackError
from steering.pack import Overrides, Pack
from steering.plan import Mode, Plan

HEADER = "x-steering-profile"
MAX_HEADER = 512

_MODES = {
    "on": "on",
    "true": "on",
    "default": "on",
    "off": "off",
    "false": "off",
    "none": "off",
    "observe": "observe",
    "compare": "compare",
}
"""What may stand in the place of a profile's name in the header."""

SourceName = Literal["body", "header", "model", "key", "server"]


@dataclass(frozen=True)
class Source:
    """What one place of a request asks for."""

    name: SourceName
    param: str
    """Where it stands, for error messages."""
    options: SteeringOptions


@dataclass(frozen=True)
class Resolved:
    """The steering one request gets."""

    plan: Plan
    source: SourceName
    """The highest source that asked for anything."""
    compare: bool = False
    """Beside the answer under the plan, one under none."""
    clamped: float | None = None
    """The strength that was asked for, where the key's policy allows less."""


def from_body(value: SteeringOptions | bool | str | None) -> Source | None:
    """The `steering` field in any of its forms; a string may be a profile's name or hold JSON of another form."""
    if isinstance(value, str):
        value = _from_text(value)
    if isinstance(value, bool):
        value = SteeringOptions(mode="on" if value else "off")
    elif isinstance(value, SteeringOptions) and value.profile is not None and value.mode is None:
        value = value.model_copy(update={"mode": "on"})
    return None if value is None else Source("body", "steering.profile", value)


def _from_text(text: str) -> SteeringOptions | bool | None:
    text = text.strip()
    if text[:1] not in ("{", '"', "[") and text not in ("true", "false", "null"):
        return _named(text, "steering")
    value = parse(text.encode(), "steering")
    if isinstance(value, str):
        return _named(value, "steering")
    if value is None or isinstance(value, bool):
        return value
    return validate(SteeringOptions, value, ("steering",))


def _named(name: str, param: str) -> SteeringOptions:
    return validate(SteeringOptions, {"profile": name, "mode": "on"}, (param,))


def from_header(values: Sequence[str]) -> Source | None:
    """`X-Steering-Profile: candid;strength=0.7`, or `on`, `off`, `observe`, `compare` in the name's place."""
    if not values:
        return None
    if len(values) > 1 or len(values[0]) > MAX_HEADER:
        raise ApiError("invalid_value", f"{HEADER} must be one header of at most {MAX_HEADER} characters.", HEADER)
    head, *rest = (part.strip() for part in values[0].split(";"))
    fields: dict[str, object] = {"mode": _MODES[head]} if head in _MODES else {"profile": head, "mode": "on"}
    for part in rest:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or (key in fields and key != "mode"):
            raise ApiError("invalid_value", f"{HEADER} must read like NAME;strength=0.7;gate=always.", HEADER)
        fields[key] = _number_or_text(value)
    return Source("header", HEADER, validate(SteeringOptions, fields, (HEADER,)))


def _number_or_text(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def from_model_id(model_id: str, served: Served) -> Source | None:
    """`base+profile`, or `base+none` for off. Any other id than the served one does not exist."""
    base = served.model.name
    if model_id == base:
        return None
    suffix = model_id.removeprefix(f"{base}+")
    if suffix == model_id or (suffix != "none" and served.store.entry(suffix) is None):
        known = ", ".join([base, *(f"{base}+{pack.name}" for pack in served.profiles())][:10])
        raise ApiError("model_not_found", f"The model {model_id[:100]!r} does not exist; served: {known}.", "model")
    options = SteeringOptions(mode="off") if suffix == "none" else _named(suffix, "model")
    return Source("model", "model", options)


def from_key(caller: Caller) -> Source | None:
    """What the API key says of requests that say nothing."""
    return None if caller.steering is None else Source("key", "api_key.steering", caller.steering)


def resolve(asked: Sequence[Source | None], served: Served, default_mode: Mode, caller: Caller) -> Resolved:
    """Merges the explicit sources, highest first, above the defaults of the key and of the server."""
    explicit = [source for source in asked if source is not None]
    key = from_key(caller)
    given = explicit if key is None else [*explicit, key]
    merged = _merge(given)
    check_scopes(merged, caller)
    check_switch(merged, caller)
    mode = merged.mode or ("on" if given else default_mode)
    source: SourceName = given[0].name if given else "server"
    name, param = _profile(explicit, key, served)
    if mode == "off":
        return Resolved(Plan(trace=merged.trace or "off"), source)
    own = merged.corrections or []
    alone = bool(own) and all(source.options.profile is None for source in given)
    named = None if alone else _pack(name, param, served)
    check_profile(named, caller, param)
    pack = named if named and not own else with_corrections(named, own, served)
    of_plan: Mode = "on" if mode == "compare" else mode
    overrides = _overrides(merged, of_plan, served)
    resolved = Resolved(pack.plan(overrides), source, compare=mode == "compare")
    strength = clamped(overrides.strength, caller)
    if strength == overrides.strength:
        return resolved
    return replace(resolved, plan=pack.plan(replace(overrides, strength=strength)), clamped=overrides.strength)


def _pack(name: str | None, param: str, served: Served) -> Pack:
    if name is None:
        raise no_default_profile(param, '"steering"')
    try:
        return served.store.get(*split_reference(name))
    except PackError as error:
        raise ApiError(to_api_error(error).code, f"{param} {name!r} cannot be used: {error}", param) from error


def no_default_profile(param: str, field: str) -> ApiError:
    """field: of the body, where a name can be given."""
    message = (
        f'No default profile is set: name one ({field}: "NAME"), start the server with --default-profile NAME, or make '
        "one first: unsway calibrate MODEL."
    )
    return ApiError("no_default_profile", message, param)


def _merge(given: Sequence[Source]) -> SteeringOptions:
    merged: dict[str, object] = {}
    for source in reversed(given):
        merged |= {key: value for key, value in source.options if value is not None}
    return SteeringOptions(**merged)  # type: ignore[arg-type]


def _profile(explicit: Sequence[Source], key: Source | None, served: Served) -> tuple[str | None, str]:
    """The profile's reference and who named it. Two different names that a request gives are a conflict, never settled
    in silence; a key's is a default, which gives way."""
    named = [source for source in explicit if source.options.profile is not None]
    for higher, lower in pairwise(named):
        if split_reference(str(higher.options.profile))[0] != split_reference(str(lower.options.profile))[0]:
            raise ApiError(
                "conflicting_steering",
                f"{higher.param} asks for the profile {higher.options.profile!r} and {lower.param} for "
                f"{lower.options.profile!r}; name one of them.",
                higher.param,
            )
    if key is not None and key.options.profile is not None:
        named.append(key)
    if named:
        return named[0].options.profile, named[0].param
    return served.default_profile, explicit[0].param if explicit else "steering.profile"


def split_reference(reference: str) -> tuple[str, str | None]:
    """`name@digest` -> (name, digest prefix or None)."""
    name, _, digest = reference.partition("@")
    return name, digest or None


def _overrides(merged: SteeringOptions, mode: Mode, served: Served) -> Overrides:
    defaults = Overrides()
    return Overrides(
        mode=mode,
        strength=defaults.strength if merged.strength is None else merged.strength,
        gate=merged.gate or defaults.gate,
        threshold=merged.threshold,
        phases=None if merged.phases is None else frozenset(merged.phases),
        trace=merged.trace or defaults.trace,
        exempt=exempt_spans(merged.exempt, served),
    )
