"""What the document says of replies beside their bodies: headers, errors, streams, links to what can be asked next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.access import Need
from server.schemas.document_errors import error_headers, errors_of

Json = dict[str, Any]

_REMAINING = {
    f"RateLimit{what.title()}{kind.title()}": (
        f"x-ratelimit-{what}-{kind}",
        f"Of a key with limits: {kind} a minute, {said}.",
    )
    for kind in ("requests", "tokens")
    for what, said in (("limit", "in all"), ("remaining", "that are left"), ("reset", "seconds until all are there"))
}
_HEADERS: Mapping[str, tuple[str, bool, str, Json]] = {
    "RequestId": (
        "x-request-id",
        True,
        "The request's own, if that is harmless; else one of the server's. For logs and support alone.",
        {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    ),
    "RetryAfter": ("retry-after", True, "Seconds, after which it may go better.", {"type": "integer", "minimum": 1}),
    "ShouldRetry": ("x-should-retry", False, "For the SDKs: the same would come again.", {"const": "false"}),
    "WwwAuthenticate": ("www-authenticate", True, "", {"const": "Bearer"}),
    "WwwAuthenticateScope": (
        "www-authenticate",
        False,
        "Where a scope is lacking, with its name.",
        {"type": "string", "pattern": '^Bearer error="insufficient_scope", scope="[a-z:]+"$'},
    ),
    "ETag": ("etag", True, "The pack's digest, in quotes.", {"type": "string", "pattern": '^"[0-9a-f]{64}"$'}),
    "ETagIfUsable": (
        "etag",
        False,
        "The pack's digest, in quotes; a broken pack has none.",
        {"type": "string", "pattern": '^"[0-9a-f]{64}"$'},
    ),
    "Location": ("location", True, "Its path.", {"type": "string", "pattern": "^/v1/"}),
    "Disposition": ("content-disposition", True, "A file's name.", {"type": "string", "pattern": "^attachment; "}),
    "SteeringProfile": (
        "x-steering-profile",
        True,
        "`off`, or the profile with 12 digits of its digest, and `+custom` for corrections of the request's own.",
        {"type": "string", "pattern": "^(off|custom|[a-z0-9][a-z0-9._-]{0,63}@[0-9a-f]{12}([+]custom)?)$"},
    ),
    "SteeringSource": (
        "x-steering-source",
        True,
        "The highest place that asked for anything.",
        {"enum": ["body", "header", "model", "key", "server"]},
    ),
    "SteeringClamped": (
        "x-steering-clamped",
        False,
        "Where the key's policy allows no more.",
        {"type": "string", "pattern": "^strength="},
    ),
    "IgnoredParams": ("x-ignored-params", False, "Fields that were taken and not used.", {"type": "string"}),
    **{key: (name, False, said, {"type": "string"}) for key, (name, said) in _REMAINING.items()},
}
"""Key in the components -> (name, whether it is always there, description, schema)."""
_STEERED = ("SteeringProfile", "SteeringSource", "SteeringClamped", "IgnoredParams")
_OF_REPLIES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("create_chat_completion", "200"): _STEERED,
    ("create_completion", "200"): _STEERED,
    ("create_response", "200"): _STEERED,
    ("retrieve_profile", "200"): ("ETagIfUsable",),
    ("retrieve_profile", "304"): ("ETag",),
    ("retrieve_profile_card", "200"): ("ETag",),
    ("retrieve_profile_card", "304"): ("ETag",),
    ("retrieve_profile_file", "200"): ("ETag", "Disposition"),
    ("retrieve_profile_file", "304"): ("ETag",),
    ("upload_profile", "200"): ("ETag",),
    ("upload_profile", "201"): ("ETag", "Location"),
    ("create_job", "201"): ("Location",),
}
_TO_JOB = {"job_id": "$response.body#/id"}
_TO_PROFILE = {"name": "$response.body#/name"}
_PROFILE_LINKS = {
    "profile": ("retrieve_profile", _TO_PROFILE),
    "card": ("retrieve_profile_card", _TO_PROFILE),
    "file": ("retrieve_profile_file", _TO_PROFILE),
    "delete": ("delete_profile", _TO_PROFILE),
}
_TRACE_LINKS = {"trace": ("retrieve_trace", {"request_id": "$response.body#/id"})}
_LINKS: Mapping[tuple[str, str], Mapping[str, tuple[str, Mapping[str, str]]]] = {
    ("create_job", "201"): {
        "job": ("retrieve_job", _TO_JOB),
        "events": ("stream_job_events", _TO_JOB),
        "delete": ("delete_job", _TO_JOB),
    },
    ("upload_profile", "200"): _PROFILE_LINKS,
    ("upload_profile", "201"): _PROFILE_LINKS,
    ("create_chat_completion", "200"): _TRACE_LINKS,
    ("create_completion", "200"): _TRACE_LINKS,
    ("create_response", "200"): _TRACE_LINKS,
}
"""What the id in a reply opens: a trace only where the request was steered, observed or compared."""


def headers() -> Json:
    """The components."""
    return {
        key: {"description": said, "required": required, "schema": schema}
        for key, (_, required, said, schema) in _HEADERS.items()
    }


def complete(operation: Json, need: Need | None) -> None:
    """Adds to the replies of an operation all that its route does not say."""
    name, replies = operation["operationId"], operation["responses"]
    for status in ("422", "default"):
        replies.pop(status, None)
    for status, codes in errors_of(name, need).items():
        replies[status] = _error(codes)
    always = ("RequestId", *(() if need == "open" else _REMAINING))
    for status, reply in replies.items():
        own = (*_OF_REPLIES.get((name, status), ()), *error_headers(status))
        reply["headers"] = {_HEADERS[key][0]: {"$ref": f"#/components/headers/{key}"} for key in (*own, *always)}
        for link, (target, parameters) in _LINKS.get((name, status), {}).items():
            reply.setdefault("links", {})[link] = {"operationId": target, "parameters": dict(parameters)}


def _error(codes: tuple[str, ...]) -> Json:
    content = {
        "schema": {"$ref": "#/components/schemas/ErrorReply"},
        "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
    }
    return {"description": ", ".join(codes), "content": {"application/json": content}}


def stream(item: str) -> Json:
    """Server-sent events whose data is `item`, a schema's name. Before OpenAPI 3.2, `schema` is of one event."""
    one = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in (item, "ErrorReply")]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": one}
    ends = {"const": "[DONE]", "description": "What the last one says, of a stream that ended well."}
    return {
        "schema": {
            "type": "object",
            "description": "One event.",
            "properties": {"event": {"type": "string"}, "data": {"anyOf": [ends, data]}},
            "required": ["data"],
        }
    }


def job_stream() -> Json:
    """The same of what a job says."""
    return {
        "schema": {
            "type": "object",
            "description": "One event.",
            "properties": {
                "id": {"type": "string", "description": "For Last-Event-ID.", "pattern": "^[0-9]+$"},
                "event": {"enum": ["state", "progress", "log", "end", "error"]},
                "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": {"type": "object"}},
            },
            "required": ["event", "data"],
        }
    }
