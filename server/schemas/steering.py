"""The `steering` field of a request, the receipt of a reply, the list of profiles."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NotRequired, Self, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, Tag, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.schemas.rules import NULL, SOME, of
from server.schemas.strict import Strict, by_json_type
from steering.gate import Phase, SpanKind
from steering.pack import RESERVED_NAMES
from steering.plan import Trace

_REFERENCE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(@[0-9a-f]{4,64})?")
_REFERENCE_SCHEMA = {
    "type": "string",
    "pattern": f"^{_REFERENCE.pattern}$",
    "not": {"enum": sorted(RESERVED_NAMES)},
}
_TEXT_SCHEMA = {
    "description": "A profile's name, or JSON of any other form, for apps that can send nothing but strings.",
    "anyOf": [
        _REFERENCE_SCHEMA,
        {"enum": ["true", "false", "null"]},
        {"type": "string", "contentMediaType": "application/json", "pattern": r"^[ \t\r\n]*[{\"]"},
    ],
}
_TINY = 1e-6
MAX_SCALE = 8.0
MAX_CORRECTIONS = 32
MAX_UNITS = 4096
"""Of one correction."""

Mode = Literal["on", "observe", "compare", "off"]
GateChoice = Literal["profile", "always", "drift"]
_Named = TypeVar("_Named", bound=str)


def _reference(text: str) -> str:
    if _REFERENCE.fullmatch(text) is None or text in RESERVED_NAMES:
        raise PydanticCustomError(
            "invalid_name",
            "must be a profile name: 1 to 64 of a-z, 0-9, '.', '_', '-', the first a letter or a digit, and none of "
            "{reserved}; optionally @ and 4 to 64 hex digits of its digest",
            {"reserved": ", ".join(sorted(RESERVED_NAMES))},
        )
    return text


def _strength(value: float | None) -> float | None:
    if value is None:
        return None
    if 0.0 < value < _TINY:
        raise PydanticCustomError("decimal_below_min_value", "must be 0 or at least 0.000001")
    return value + 0.0  # -0.0 becomes 0.0


def _scale(value: float) -> float:
    if 0.0 < abs(value) < _TINY:
        raise PydanticCustomError("decimal_below_min_value", "must be 0 or at least 0.000001 away from it")
    return value + 0.0  # -0.0 becomes 0.0


def _distinct(names: list[_Named]) -> list[_Named]:
    if len(set(names)) != len(names):
        raise PydanticCustomError("invalid_value", "must not name anything twice")
    return names


def _name(text: str) -> str:
    if "@" in text:
        raise PydanticCustomError("invalid_name", "must be a name alone; which state of it is meant, If-Match says")
    return _reference(text)


class ProfileName(Strict):
    """What a profile can be called."""

    name: Annotated[str, AfterValidator(_name)]


ProfileReference = Annotated[str, AfterValidator(_reference), WithJsonSchema(_REFERENCE_SCHEMA)]


class CustomCorrection(Strict):
    """Units of one site, whose activations are multiplied while they are computed."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": of(site={"pattern": r"^attn_z\."}),
            "then": {"required": ["groups"], "properties": {"groups": SOME, "neurons": NULL}},
            "else": {"required": ["neurons"], "properties": {"neurons": SOME, "groups": NULL}},
        }
    )

    site: str = Field(max_length=32, json_schema_extra={"pattern": r"^(attn_z|mlp_act)\.[0-9]+$"})
    """`attn_z.12`, the heads of a block, or `mlp_act.9`, its neurons."""
    groups: list[int] | None = Field(default=None, min_length=1, max_length=MAX_UNITS)
    """At `attn_z`: KV groups, each with all its query heads."""
    neurons: list[int] | None = Field(default=None, min_length=1, max_length=MAX_UNITS)
    """At `mlp_act`: neurons."""
    scale: Annotated[float, AfterValidator(_scale)] = Field(ge=-MAX_SCALE, le=MAX_SCALE)
    """What they are multiplied by: 0 silences them, 1 leaves them alone."""

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        component = self.site.partition(".")[0]
        named = {"attn_z": self.groups, "mlp_act": self.neurons}
        if component not in named:
            raise PydanticCustomError("invalid_value", "must have a site that reads like attn_z.12 or mlp_act.9")
        own = "groups" if component == "attn_z" else "neurons"
        if named.pop(component) is None or named.popitem()[1] is not None:
            raise PydanticCustomError(
                "invalid_value", "must name {own}, and nothing else, at {at}", {"own": own, "at": component}
            )
        return self


class SteeringOptions(Strict):
    """Full control of one request's steering. What is absent or null is decided by the next lower source."""

    profile: ProfileReference | None = None
    """Which pack: `name` or `name@digest`."""
    mode: Mode | None = None
    """`on` applies it, `observe` measures and applies nothing, `compare` returns two choices with the same random
    numbers, index 0 steered and index 1 not (n must be 1; measured where tokens are traced), `off` runs the plain
    model."""
    strength: Annotated[float | None, AfterValidator(_strength)] = Field(default=None, ge=0)
    """Multiplies the calibrated dose; 0 is bit-identical to off, the profile's max_strength is the most."""
    gate: GateChoice | None = None
    """When corrections apply: as the profile says, always, or on drift alone."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Drift above which the gate opens, Jensen-Shannon in bits, instead of the profile's."""
    phases: (
        Annotated[list[Phase], Field(min_length=1, json_schema_extra={"uniqueItems": True}), AfterValidator(_distinct)]
        | None
    ) = None
    """Positions where corrections apply, instead of the profile's."""
    exempt: (
        Annotated[list[SpanKind], Field(json_schema_extra={"uniqueItems": True}), AfterValidator(_distinct)] | None
    ) = None
    """Spans of the answer in which nothing acts: fenced code, and tool calls and reasoning as the model's template
    marks them. The receipt repeats it and counts the tokens."""
    trace: Trace | None = None
    """What the reply tells about itself; `tokens` annotates every token and turns `logprobs` on."""
    corrections: Annotated[list[CustomCorrection], Field(max_length=MAX_CORRECTIONS)] | None = None
    """Corrections of this request's own, after those of the profile that it names; alone (profile `custom`) where it
    names none. They act always, unless `gate` says drift, and in the completion, unless `phases` says more."""


Steering = Annotated[
    Annotated[SteeringOptions, Tag("form:options")]
    | Annotated[bool, Tag("form:switch"), Field(description="true: the default profile; false: off")]
    | Annotated[str, Tag("form:text"), WithJsonSchema(_TEXT_SCHEMA)],
    by_json_type(
        {dict: "form:options", bool: "form:switch", str: "form:text"},
        "true, false, a profile's name, an object or null",
    ),
]
"""The `steering` field in all its forms."""


class Receipt(TypedDict):
    """What steering did to one answer: what fired, where, how hard, or, as `skipped`, why not.

    `early_token` is what the early layer said where the gate first opened, `late_token` what the output did; where none
    opened, the most probable candidate of each where drift was largest.
    """

    applied: bool
    mode: Literal["on", "observe", "off"]
    profile: str
    strength: float
    gate: NotRequired[Literal["always", "drift"]]
    fired_tokens: int
    tokens: int
    at: NotRequired[int]
    max_drift: NotRequired[float]
    early_token: NotRequired[str]
    late_token: NotRequired[str]
    skipped: NotRequired[str]
    exempt: NotRequired[list[SpanKind]]
    exempt_tokens: NotRequired[int]
    """Tokens of the answer that lie in an exempt span; there whatever the profile, nothing acted on them."""
    truncated: NotRequired[Literal[True]]
    """With trace tokens: those of later tokens are left out, as all together would take more than a trace may."""
    clamped: NotRequired[str]
    """What the API key's policy took off of what was asked for."""
    prefill_shared: NotRequired[bool]
    """With mode compare: whether the prompt was computed once for both choices."""


class TokenTrace(TypedDict):
    """What the lens saw where one token was sampled, most probable first. Pairs are (text, log-probability).

    `late` is among the candidates, the tokens most probable in the end. So is `early`, but where the gate opened: there
    it is of the whole vocabulary, since what the early layer says may be none of them.
    """

    fired: bool
    """The gate opened here."""
    steered: bool
    """A correction acted here."""
    exempt: NotRequired[Literal[True]]
    """It lies in an exempt span: nothing was read."""
    drift: NotRequired[float]
    early: NotRequired[list[tuple[str, float]]]
    late: NotRequired[list[tuple[str, float]] | Literal["steered"]]
    base_logprob: NotRequired[float]


class Profile(TypedDict):
    """One pack as the server knows it."""

    name: str
    digest: NotRequired[str]
    max_strength: NotRequired[float]
    observe_only: NotRequired[bool]
    description: NotRequired[str]
    uploaded: NotRequired[bool]
    """Present where it can be replaced and deleted over HTTP."""
    broken: NotRequired[str]


class ProfileDetector(TypedDict):
    """The lens that reads the early answer, and when a gate opens."""

    lens: Literal["LogitLens", "TunedLens"]
    layer: int
    threshold: float
    """Drift above which a drift gate opens, bits."""
    num_candidates: int


class ProfileCorrection(TypedDict):
    """One correction, without its tensors."""

    name: str
    site: str
    edit: str
    gate: str
    phases: str
    strength: float
    units: NotRequired[list[str]]
    """What it acts on: KV groups (`group.4.1`) or MLP neurons (`neuron.9.17`); absent where it is neither."""


class ProfileDetails(Profile):
    """One pack with its evidence. Of a broken one there is the name and the reason alone."""

    model: NotRequired[str]
    """It was made for; what counts is the fingerprint."""
    fingerprint: NotRequired[str]
    detector: NotRequired[ProfileDetector]
    """Absent where the pack has none."""
    corrections: NotRequired[list[ProfileCorrection]]
    evidence: NotRequired[dict[str, object]]
    """What calibration measured."""
    created: NotRequired[dict[str, str]]
    """Versions it was made with."""


class ProfileList(TypedDict):
    object: Literal["list"]
    data: list[Profile]
