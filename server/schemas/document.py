"""The OpenAPI document. Bodies are parsed by hand (FastAPI's parser is not strict), so described by hand too."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from server.access import need
from server.errors import ErrorReply
from server.schemas import document_replies, document_requests
from server.schemas.completions import CompletionRequest
from server.schemas.document_errors import examples
from server.schemas.jobs import JobRequest
from server.schemas.lens import LensRequest
from server.schemas.openai import ChatRequest
from server.schemas.replies import ChatCompletionChunk, TextCompletion
from server.schemas.response_replies import ResponseEvent
from server.schemas.responses import ResponsesRequest
from server.schemas.verify import VerifyRequest

_REFERENCE = "#/components/schemas/{model}"
_TYPES: dict[str, Any] = {
    "ChatRequest": ChatRequest,
    "CompletionRequest": CompletionRequest,
    "ResponsesRequest": ResponsesRequest,
    "LensRequest": LensRequest,
    "VerifyRequest": VerifyRequest,
    "JobRequest": JobRequest,
    "ChatCompletionChunk": ChatCompletionChunk,
    "TextCompletion": TextCompletion,
    "ResponseEvent": ResponseEvent,
    "ErrorReply": ErrorReply,
}
"""Those that no route names, and what they are called (a union has no name of its own)."""
_BODIES = {
    "create_chat_completion": "ChatRequest",
    "create_completion": "CompletionRequest",
    "create_response": "ResponsesRequest",
    "read_lens": "LensRequest",
    "verify_answer": "VerifyRequest",
    "create_job": "JobRequest",
}
_STREAMS = {
    "create_chat_completion": document_replies.stream("ChatCompletionChunk"),
    "create_completion": document_replies.stream("TextCompletion"),
    "create_response": document_replies.stream("ResponseEvent"),
    "stream_job_events": document_replies.job_stream(),
}
"""Operation -> what comes as server-sent events."""


def describe(app: FastAPI) -> dict[str, Any]:
    """The document of `app`, complete: request bodies, streams, errors, headers and what key it takes."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = document["components"]
    components["schemas"] = _schemas(components["schemas"])
    components["headers"], components["examples"] = document_replies.headers(), examples()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(operation, path, method)
    components["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "Where the server asks for keys. What an operation names is the scope that the key needs.",
        }
    }
    return document


def _schemas(found: dict[str, Any]) -> dict[str, Any]:
    schemas = {name: schema for name, schema in found.items() if name not in ("HTTPValidationError", "ValidationError")}
    for name, type_ in _TYPES.items():
        schema = TypeAdapter(type_).json_schema(ref_template=_REFERENCE)
        schemas |= schema.pop("$defs", {})
        schemas[name] = schema
    return schemas


def _complete(operation: dict[str, Any], path: str, method: str) -> None:
    name, needed = operation["operationId"], need(path, method.upper())
    if name in _BODIES:
        operation["requestBody"] = document_requests.body(name, _BODIES[name])
    if name in _STREAMS:
        operation["responses"]["200"]["content"]["text/event-stream"] = _STREAMS[name]
    document_requests.complete(operation)
    document_replies.complete(operation, needed)
    scopes = [] if needed is None or needed in ("open", "key") else [needed]
    operation["security"] = [] if needed == "open" else [{"key": scopes}]
