"""One call of the wire, ready to run: what chats and completions have in common."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from server.caller import Caller
from server.errors import ApiError
from server.schemas.generation import Answered, Generation
from server.schemas.replies import ServiceTier
from server.schemas.violations import validate
from server.serving import Served
from server.translate.names import Names
from server.translate.steering import Resolved, SourceName, from_body, from_header, from_model_id, resolve
from steering.engine.admission import check_ids
from steering.engine.request import Request, SamplingParams, TokenEvent
from steering.errors import ContextLengthExceeded
from steering.grammar.compiler import Shape
from steering.model.answer_parser import AnswerForm
from steering.plan import Mode

Fields = TypeVar("Fields", bound=Answered)


@dataclass(frozen=True)
class Choice:
    """One answer of a call."""

    asked: Request
    """The request it belongs to, as the engine gets it."""
    request: Request
    """What that request comes to for this answer alone."""


@dataclass(frozen=True)
class Echo:
    """A prompt as it is given back."""

    text: str
    starts: tuple[int, ...]
    """Characters before each of its tokens."""


@dataclass(frozen=True)
class Call:
    """One call, ready to run, with what its reply needs to know."""

    requests: tuple[Request, ...]
    """One per prompt."""
    model: str
    """As asked for, and so as answered."""
    created: int
    """Unix seconds."""
    system_fingerprint: str
    stream: bool
    include_usage: bool
    source: SourceName
    ignored: tuple[str, ...]
    """Parameters that were taken and not used."""
    echoes: Mapping[str, Echo] = field(default_factory=dict)
    """Request id -> what comes before its answers."""
    shape: Shape | None = None
    """What the answers must be and are not yet made to be: it takes long to compile (`translate.constraint`)."""
    names: Names = field(default_factory=Names)
    """Of its fields, for what is wrong with the shape."""
    form: AnswerForm = field(default_factory=AnswerForm)
    """How its answers are read."""
    told: Mapping[str, object] = field(default_factory=dict)
    """What the reply says of the request, beside the model."""
    truncated: set[int] = field(default_factory=set)
    """Choices whose trace is cut, filled while they are answered (`translate.record`)."""
    service_tier: ServiceTier | None = None
    """Under which it runs, where one was asked for."""
    clamped: float | None = None
    """The strength that was asked for, where the key's policy allows less."""

    def of(self, caller: str) -> Call:
        """The same call as a request of `caller`."""
        return replace(self, requests=tuple(replace(request, key=caller) for request in self.requests))

    @property
    def id(self) -> str:
        return self.requests[0].id

    @property
    def headers(self) -> dict[str, str]:
        plan = self.requests[0].plan
        headers = {
            "x-steering-profile": "off" if plan.mode == "off" else short_profile(plan.profile),
            "x-steering-source": self.source,
        }
        if self.clamped is not None:
            headers["x-steering-clamped"] = f"strength={plan.strength:g}"
        return headers | ({"x-ignored-params": ", ".join(self.ignored)} if self.ignored else {})

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """By index: the answers to the first prompt, then those to the next."""
        return tuple(Choice(asked, request) for asked in self.requests for request in asked.choices)

    def index(self, event: TokenEvent) -> int:
        """Of the choice that an event belongs to."""
        return self._indices[event.request_id, event.index]

    @cached_property
    def _indices(self) -> dict[tuple[str, int], int]:
        return {(choice.request.id, choice.request.index): i for i, choice in enumerate(self.choices)}


def short_profile(profile: str) -> str:
    """`name@`, the first 12 digits of the digest, and `+custom` where a request added to it; or `custom` alone."""
    name, at, digest = profile.partition("@")
    digest, plus, added = digest.partition("+")
    return f"{name}{at}{digest[:12]}{plus}{added}"


def read_fields(model: type[Fields], body: object, ignorable: frozenset[str]) -> tuple[Fields, list[str]]:
    """The request, and the names of what it holds that is ignored."""
    ignored: list[str] = []
    if isinstance(body, dict):
        ignored = sorted(ignorable & body.keys())
        body = {key: value for key, value in body.items() if key not in ignorable}
    fields = validate(model, body, ignorable=ignorable)
    if fields.stream_options is not None and not fields.stream:
        raise ApiError("invalid_value", "stream_options is only allowed with stream: true.", "stream_options")
    if fields.stream_options and fields.stream_options.include_obfuscation is not None:
        ignored.append("stream_options.include_obfuscation")
    return fields, ignored


def resolve_steering(
    fields: Generation, headers: Sequence[str], served: Served, default_mode: Mode, caller: Caller
) -> Resolved:
    """headers: values of `X-Steering-Profile`."""
    sources = [from_body(fields.steering), from_header(headers), from_model_id(fields.model, served)]
    resolved = resolve(sources, served, default_mode, caller)
    if resolved.compare and fields.n not in (None, 1):
        raise ApiError("invalid_value", f"n must be 1 with steering mode compare (got {fields.n}).", "n")
    return resolved


def answer_length(asked: int | None, default: int, num_prompt: int, context: int, params: tuple[str, str]) -> int:
    """The limit asked for, else what fits; refused, never clipped in silence. params: of the prompt, of the limit."""
    room = context - num_prompt
    if room < (asked != 0):
        raise too_long(context, num_prompt, params[0])
    if asked is None:
        return min(room, default)
    if asked > room:
        message = f"The context is {context} tokens; {params[0]} has {num_prompt} and the answer may have {asked}."
        raise ContextLengthExceeded(f"{message} {params[1]} can be at most {room}.", params[1])
    return asked


def too_long(context: int, num_prompt: int | str, param: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"The context is {context} tokens and {param} has {num_prompt}; it must be shorter.", param
    )


def sampling_params(
    fields: Generation, served: Served, max_tokens: int, logprobs: int | None, prompt_logprobs: int | None = None
) -> SamplingParams:
    """Token ids are checked here, before any work; all other values the schema has checked."""
    bias = tuple((int(token_id), value) for token_id, value in (fields.logit_bias or {}).items())
    stop_token_ids = tuple(fields.stop_token_ids or ())
    V = served.model.layout.vocab_size
    check_ids("logit_bias", (token_id for token_id, _ in bias), V)
    check_ids("stop_token_ids", stop_token_ids, V)
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if fields.temperature is None else fields.temperature,
        top_k=fields.top_k or 0,
        top_p=1.0 if fields.top_p is None else fields.top_p,
        min_p=fields.min_p or 0.0,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        repetition_penalty=1.0 if fields.repetition_penalty is None else fields.repetition_penalty,
        logit_bias=bias,
        seed=secrets.randbits(64) if fields.seed is None else fields.seed,
        stop=(fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ()),
        stop_token_ids=stop_token_ids,
        ignore_eos=bool(fields.ignore_eos),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def make_call(
    fields: Generation, requests: Sequence[Request], resolved: Resolved, served: Served, ignored: Sequence[str]
) -> Call:
    return Call(
        requests=tuple(requests),
        model=fields.model,
        created=int(time.time()),
        system_fingerprint=served.fingerprint(resolved.plan),
        stream=bool(fields.stream),
        include_usage=bool(fields.stream_options and fields.stream_options.include_usage),
        source=resolved.source,
        ignored=tuple(ignored),
        clamped=resolved.clamped,
    )
