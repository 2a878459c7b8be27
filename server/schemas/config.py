"""The settings in effect and what the engine made of them."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from server.configuration import Source
from server.schemas.steering import Mode


class Setting(TypedDict):
    """One setting as the server was told it; null where nothing was said and the server decides."""

    value: str | int | float | bool | None
    source: NotRequired[Source]
    """Who asked for it; absent where the application was put together by hand."""


class Served(TypedDict):
    """The model as it runs."""

    name: str
    fingerprint: str
    device: str
    dtype: str
    quantized: NotRequired[str]
    num_layers: int
    num_heads: int
    num_groups: int
    """KV groups; heads / groups query heads share one."""
    d_model: int
    d_mlp: int
    vocab_size: int


class Sizes(TypedDict):
    """What the engine has room for. `wanted` differs from `rows` and `context` where a budget cut them."""

    rows: int
    """Answers generated at the same time."""
    rows_wanted: int
    context: int
    """Tokens of a prompt and its answer together."""
    context_wanted: int
    prefill_tokens: int
    """Prompt tokens a step computes at most, over all requests."""
    queue: int
    """Requests that may wait."""
    deterministic: bool
    kv_budget_bytes: int
    """Of keys and values, the prefix cache among them."""
    kv_bytes_per_token: int


class Speed(TypedDict):
    """What the start found to be faster."""

    packed_linears: int
    packed_bytes: int
    rounded: bool
    compiled: bool
    threads: int


class Defaults(TypedDict):
    """What a request gets that says nothing."""

    mode: Mode
    profile: NotRequired[str]
    """What `"steering": true` means, `name@` and 12 digits of its digest; absent where there is none."""


class Limits(TypedDict):
    """Most of each that one request may have."""

    body_bytes: int
    upload_bytes: int
    """Of an uploaded profile."""
    messages: int
    prompts: int
    answers: int
    n: int
    stop: int
    stop_characters: int
    stop_token_ids: int
    top_logprobs: int
    logit_bias: int
    trace_bytes: int
    """Of what is kept of it, where it traces tokens."""
    lens_cells: int
    """Positions times layers."""
    lens_candidates: int
    corrections: int
    """That a request brings along."""
    correction_units: int
    """Of one of these."""


class Config(TypedDict):
    """`GET /v1/steering/config`. No key is in it."""

    object: Literal["steering.config"]
    settings: dict[str, Setting]
    model: Served
    engine: Sizes
    speed: Speed
    steering: Defaults
    requires_key: bool
    limits: Limits
