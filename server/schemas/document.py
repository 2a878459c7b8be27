"""The OpenAPI document. Bodies are parsed by hand (FastAPI's parser is not strict), so described by hand too."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from server.errors import ErrorReply
from server.schemas.completions import CompletionRequest
from server.schemas.jobs import JobRequest
from server.schemas.lens import LensRequest
from server.schemas.openai import ChatRequest
from server.schemas.replies import ChatCompletionChunk, TextCompletion
from server.schemas.response_replies import ResponseEvent
from server.schemas.responses import ResponsesRequest
from server.schemas.verify import VerifyRequest

_REFERENCE = "#/components/schemas/{model}"
_BODIES = {
    "/v1/chat/completions": (ChatRequest, ChatCompletionChunk),
    "/v1/completions": (CompletionRequest, TextCompletion),
    "/v1/responses": (ResponsesRequest, ResponseEvent),
    "/v1/steering/lens": (LensRequest, None),
    "/v1/steering/verify": (VerifyRequest, None),
}
"""Path -> its request, and the chunk of its stream if it generates."""
_JOBS = "/v1/steering/jobs"
_STEERING_HEADER = {
    "name": "X-Steering-Profile",
    "in": "header",
    "description": "For clients that cannot add fields: `candid;strength=0.7`, or `on`, `off`, `observe`, `compare`.",
    "schema": {"type": "string", "maxLength": 512},
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The document of `app`, complete: request bodies, streams, errors and the key."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for type_ in (ErrorReply, *(type_ for types in _BODIES.values() for type_ in types if type_)):
        schema = TypeAdapter(type_).json_schema(ref_template=_REFERENCE)
        schemas |= schema.pop("$defs", {})
        schemas[type_.__name__] = schema
    schemas |= _job_request()
    for path, body in {**{path: body.__name__ for path, (body, _) in _BODIES.items()}, _JOBS: "JobRequest"}.items():
        content = {"application/json": {"schema": _ref(body)}}
        document["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    for path, (_, chunk) in _BODIES.items():
        operation = document["paths"][path]["post"]
        if chunk is not None:
            operation["parameters"] = [_STEERING_HEADER]
            operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": _ref(chunk.__name__)}
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            content = {"application/json": {"schema": _ref("ErrorReply")}}
            operation["responses"]["default"] = {"description": "Any error", "content": content}
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    return document


def _job_request() -> dict[str, Any]:
    """A union has no name of its own."""
    schema = TypeAdapter(JobRequest).json_schema(ref_template=_REFERENCE)
    return {**schema.pop("$defs"), "JobRequest": schema}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=name)}
