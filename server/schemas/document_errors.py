"""Which errors each operation may answer with, and what they look like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from server.access import Need
from server.errors import ApiError

_ANY = ("invalid_host", "internal_error")
_KEYED = ("missing_api_key", "invalid_api_key", "rate_limit_exceeded")
_MODEL = ("model_loading", "draining", "engine_dead")
_JSON = (
    *("duplicate_key", "invalid_json", "invalid_unicode", "non_finite_number"),
    *("request_timeout", "request_too_large", "unsupported_media_type"),
)
_FIELDS = (
    *("invalid_type", "invalid_value", "missing_required_parameter", "unknown_parameter"),
    *("array_above_max_length", "array_below_min_length", "string_above_max_length", "string_below_min_length"),
    *("decimal_above_max_value", "decimal_below_min_value", "integer_above_max_value", "integer_below_min_value"),
)
_PROFILE = ("invalid_name", "no_default_profile", "profile_unavailable", "steering_profile_not_found")
_ENGINE = (
    *("context_length_exceeded", "numerical_error", "over_memory_budget", "queue_full", "server_shutdown"),
    *("model_not_found", "template_error"),
)
_ANSWER = (
    *(*_MODEL, *_JSON, *_FIELDS, *_PROFILE, *_ENGINE, "conflicting_steering", "layer_out_of_range"),
    *("profile_model_mismatch", "profile_observe_only", "steering_policy", "unsupported_parameter"),
)
_READS = (*_MODEL, *_JSON, *_FIELDS, *_PROFILE, *_ENGINE, "unsupported_content", "unsupported_parameter")
_ONE_PROFILE = (*_MODEL, "profile_model_mismatch", "profile_unavailable", "steering_profile_not_found")
_CHANGES_PROFILE = (
    *(*_MODEL, "etag_mismatch", "invalid_name", "invalid_value", "profile_read_only", "storage_full"),
    "unknown_parameter",
)
_ONE_JOB = ("job_not_found", "jobs_unavailable", "storage_full")

CODES: Mapping[str, tuple[str, ...]] = {
    "health": _MODEL,
    "health_live": ("engine_dead",),
    "health_ready": _MODEL,
    "metrics": (),
    "version": (),
    "retrieve_me": (),
    "list_models": _MODEL,
    "retrieve_model": (*_MODEL, "invalid_name", "model_not_found"),
    "create_chat_completion": (*_ANSWER, "unsupported_content"),
    "create_completion": _ANSWER,
    "create_response": (*_ANSWER, "unsupported_content"),
    "read_lens": (*_READS, "layer_out_of_range"),
    "verify_answer": _READS,
    "retrieve_trace": ("trace_not_found",),
    "retrieve_config": _MODEL,
    "list_profiles": _MODEL,
    "retrieve_profile": _ONE_PROFILE,
    "retrieve_profile_card": _ONE_PROFILE,
    "retrieve_profile_file": _ONE_PROFILE,
    "upload_profile": (
        *(*_CHANGES_PROFILE, "invalid_tensor_file", "layer_out_of_range", "non_finite_number", "profile_exists"),
        *("profile_model_mismatch", "profile_quota_exceeded", "request_timeout", "request_too_large"),
        *("shape_mismatch", "unsupported_file_format", "unsupported_media_type"),
    ),
    "delete_profile": (*_CHANGES_PROFILE, "profile_in_use", "steering_profile_not_found"),
    "create_job": (
        *(*_MODEL, *_JSON, *_FIELDS, "invalid_name", "job_already_running", "jobs_unavailable", "over_memory_budget"),
        *("profile_exists", "profile_model_mismatch", "profile_observe_only", "profile_unavailable", "queue_full"),
        *("steering_profile_not_found", "storage_full"),
    ),
    "list_jobs": ("jobs_unavailable", "storage_full"),
    "retrieve_job": _ONE_JOB,
    "delete_job": _ONE_JOB,
    "stream_job_events": _ONE_JOB,
}
"""Operation -> its codes, beside those that any may have and those of its key."""

_MESSAGES: Mapping[str, tuple[str, str | None]] = {
    "array_above_max_length": ("stop must have at most 4 items (got an array of 5).", "stop"),
    "array_below_min_length": ("messages must have at least 1 item (got an array of 0).", "messages"),
    "conflicting_steering": (
        "steering.profile asks for the profile 'candid' and model for 'firm'; name one of them.",
        "steering.profile",
    ),
    "context_length_exceeded": ("The context is 512 tokens and messages has 600; it must be shorter.", "messages"),
    "decimal_above_max_value": ("temperature must be between 0 and 2 (got 3).", "temperature"),
    "decimal_below_min_value": ("temperature must be between 0 and 2 (got -1).", "temperature"),
    "draining": ("The server is shutting down.", None),
    "duplicate_key": ("model is given twice.", "model"),
    "engine_dead": ("The engine has stopped by an error; the server must be restarted.", None),
    "etag_mismatch": ("candid is another one meanwhile.", None),
    "insufficient_scope": ("This needs an API key with the scope chat; this one has jobs.", None),
    "integer_above_max_value": ("n must be between 1 and 16 (got 17).", "n"),
    "integer_below_min_value": ("n must be between 1 and 16 (got 0).", "n"),
    "internal_error": ("Internal error; the server's log has it under this request's x-request-id.", None),
    "invalid_api_key": ("Incorrect API key; exactly one header Authorization: Bearer KEY is expected.", None),
    "invalid_host": ("This server does not answer to the name in the header Host; --allowed-hosts names more.", None),
    "invalid_json": ("The body is not valid JSON: Expecting value: line 1 column 1 (char 0).", None),
    "invalid_name": ("steering.profile must be a profile name.", "steering.profile"),
    "invalid_tensor_file": ("The file is refused: its header is no JSON.", None),
    "invalid_type": ('temperature must be a number (got "hot").', "temperature"),
    "invalid_unicode": ("The body must be UTF-8 (byte 12 is not).", None),
    "invalid_value": ("top_logprobs is only allowed with logprobs: true.", "top_logprobs"),
    "job_already_running": ("job_0123456789abcdef01234567 does the same already, and has not ended.", None),
    "job_not_found": ("There is no job 'job_0123456789abcdef01234567' of yours.", "job_id"),
    "jobs_unavailable": ("This server runs no jobs: start it with --jobs FOLDER (UNSWAY_JOBS).", None),
    "layer_out_of_range": ("layers.0 must be 0 to 7, or 8 for the output, which is always read (got 9).", "layers.0"),
    "missing_api_key": ("This server needs an API key: send the header Authorization: Bearer KEY.", None),
    "missing_required_parameter": ("messages is required.", "messages"),
    "model_loading": ("The model is still loading.", None),
    "model_not_found": ("The model 'gpt-4' does not exist; served: unsway-organism.", "model"),
    "no_default_profile": ("No default profile is set: name one.", "steering.profile"),
    "non_finite_number": ("temperature must be a finite number.", "temperature"),
    "numerical_error": ("The logits became NaN or infinite.", None),
    "over_memory_budget": ("There is no room for it now.", None),
    "profile_exists": ("There is a profile candid already. To replace it, send its ETag as If-Match.", "name"),
    "profile_in_use": ("candid is the default profile: the server was started with it.", "name"),
    "profile_model_mismatch": ("candid was made for another model.", None),
    "profile_observe_only": ("The profile watch only observes.", "steering.profile"),
    "profile_quota_exceeded": ("This server keeps 256 uploaded profiles and has as many.", None),
    "profile_read_only": ("Profiles cannot be changed: start the server with --uploads FOLDER to allow it.", None),
    "profile_unavailable": ("candid: its files were changed after it was made.", "name"),
    "queue_full": ("256 requests are waiting; try again later.", None),
    "rate_limit_exceeded": ("This API key has 60 requests a minute.", None),
    "request_timeout": ("The body did not arrive within 30 seconds.", None),
    "request_too_large": ("The body may have at most 4,194,304 bytes.", None),
    "server_shutdown": ("The server was told to stop.", None),
    "shape_mismatch": ("The file is refused: push.vector has another shape than this model's.", None),
    "steering_policy": ("The policy of the API key alice allows no requests that are off.", "steering.mode"),
    "steering_profile_not_found": ("There is no profile 'bold'.", "name"),
    "storage_full": ("There is no room left on the disk.", None),
    "string_above_max_length": ("stop.0 must have at most 256 characters (got a string of 300 characters).", "stop.0"),
    "string_below_min_length": ('model must have at least 1 character (got "").', "model"),
    "template_error": ("The model's chat template refuses these messages.", "messages"),
    "trace_not_found": ("There is no trace of 'chatcmpl-0'.", "request_id"),
    "unknown_parameter": ("temprature is not a known parameter (did you mean temperature?).", "temprature"),
    "unsupported_content": (
        "messages.0.content.0 must be a text part: other content is never read or fetched.",
        "messages.0.content.0",
    ),
    "unsupported_file_format": ("The file is refused: it is no safetensors file.", None),
    "unsupported_media_type": ("The body must be sent as content-type: application/json.", None),
    "unsupported_parameter": ("suffix is not supported: nothing is filled in.", "suffix"),
}
"""Code -> a message it may come with, and the field that is meant."""

_RETRY, _NO_RETRY = "RetryAfter", "ShouldRetry"
_HEADERS: Mapping[str, tuple[str, ...]] = {
    "401": ("WwwAuthenticate",),
    "403": ("WwwAuthenticateScope",),
    "409": (_NO_RETRY,),
    "429": (_RETRY,),
    "500": (_NO_RETRY,),
    "503": (_RETRY, _NO_RETRY),
    "507": (_NO_RETRY,),
}
"""Status -> headers beside those of every reply."""


def examples() -> dict[str, Any]:
    """One reply for each code, under its name."""
    return {code: {"value": ApiError(code, *told).reply()} for code, told in sorted(_MESSAGES.items())}


def error_headers(status: str) -> tuple[str, ...]:
    return _HEADERS.get(status, ())


def errors_of(operation_id: str, need: Need | None) -> dict[str, tuple[str, ...]]:
    """Status -> codes."""
    codes = {*_ANY, *CODES[operation_id]}
    if need != "open":
        codes |= {*_KEYED} | (set() if need == "key" else {"insufficient_scope"})
    if operation_id in ("create_chat_completion", "create_completion", "create_response"):
        codes.add("insufficient_scope")
    return {status: tuple(group) for status, group in groupby(_by_status(codes), _status)}


def _by_status(codes: Iterable[str]) -> list[str]:
    return sorted(codes, key=lambda code: (_status(code), code))


def _status(code: str) -> str:
    return str(ApiError(code, "").status)
