"""From an exception to a reply: codes with their status, library errors with their code, handlers that use both.

The shape is OpenAI's: `{"error": {"message", "type", "param", "code"}}`, all four keys always there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import Scope
from typing_extensions import TypedDict

from server.request_id import request_id_of
from server.request_record import record_of
from steering import errors as library

logger = logging.getLogger(__name__)


class ErrorBody(TypedDict):
    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(TypedDict):
    error: ErrorBody


MAX_MESSAGE = 2000
MAX_PARAM = 200
INTERNAL = "Internal error; the server's log has it under this request's x-request-id."

_CODES: dict[tuple[int, str], tuple[str, ...]] = {
    (400, "invalid_request_error"): (
        "array_above_max_length",
        "array_below_min_length",
        "conflicting_steering",
        "context_length_exceeded",
        "decimal_above_max_value",
        "decimal_below_min_value",
        "duplicate_key",
        "integer_above_max_value",
        "integer_below_min_value",
        "invalid_host",
        "invalid_json",
        "invalid_name",
        "invalid_tensor_file",
        "invalid_type",
        "invalid_unicode",
        "invalid_value",
        "layer_out_of_range",
        "missing_required_parameter",
        "no_default_profile",
        "non_finite_number",
        "profile_model_mismatch",
        "profile_observe_only",
        "shape_mismatch",
        "string_above_max_length",
        "string_below_min_length",
        "template_error",
        "unknown_parameter",
        "unsupported_content",
        "unsupported_file_format",
        "unsupported_parameter",
    ),
    (401, "authentication_error"): ("invalid_api_key", "missing_api_key"),
    (403, "permission_error"): ("insufficient_scope", "profile_quota_exceeded", "profile_read_only", "steering_policy"),
    (404, "invalid_request_error"): (
        "job_not_found",
        "model_not_found",
        "not_found",
        "steering_profile_not_found",
        "trace_not_found",
    ),
    (405, "invalid_request_error"): ("method_not_allowed",),
    (408, "timeout_error"): ("request_timeout",),
    (409, "conflict_error"): ("job_already_running", "profile_exists", "profile_in_use"),
    (412, "invalid_request_error"): ("etag_mismatch",),
    (413, "invalid_request_error"): ("request_too_large",),
    (415, "invalid_request_error"): ("unsupported_media_type",),
    (429, "rate_limit_error"): ("queue_full", "rate_limit_exceeded"),
    (500, "server_error"): ("internal_error", "numerical_error"),
    (503, "service_unavailable_error"): (
        "draining",
        "engine_dead",
        "jobs_unavailable",
        "model_loading",
        "over_memory_budget",
        "profile_unavailable",
        "server_shutdown",
    ),
    (507, "server_error"): ("storage_full",),
}
_KINDS = {code: kind for kind, codes in _CODES.items() for code in codes}


class EngineDead(library.SteeringError):
    """The engine thread ended by an error; nothing can be generated any more."""


class ServerShutdown(library.SteeringError):
    """The server was told to stop while an answer was under way."""


_CODE_OF: dict[type[Exception], str] = {
    library.InvalidRequest: "invalid_value",
    library.ValueOutOfRange: "decimal_above_max_value",  # of a strength: schemas have checked all other numbers
    library.LayerOutOfRange: "layer_out_of_range",
    library.ContextLengthExceeded: "context_length_exceeded",
    library.TemplateError: "template_error",
    library.UnsupportedTools: "unsupported_parameter",
    library.InvalidUnicode: "invalid_unicode",
    library.QueueFull: "queue_full",
    library.NumericalError: "numerical_error",
    library.EngineFailure: "internal_error",
    library.OverMemoryBudget: "over_memory_budget",
    library.ProfileObserveOnly: "profile_observe_only",
    library.PackNotFound: "steering_profile_not_found",
    library.PackModelMismatch: "profile_model_mismatch",
    library.PackExists: "profile_exists",
    library.PackChanged: "etag_mismatch",
    library.PackReadOnly: "profile_read_only",
    library.NotPackOwner: "insufficient_scope",
    library.PackQuotaExceeded: "profile_quota_exceeded",
    library.StorageFull: "storage_full",
    library.PackError: "profile_unavailable",
    EngineDead: "engine_dead",
    ServerShutdown: "server_shutdown",
}
_OF_STATUS = {
    404: ("not_found", "There is nothing at this path."),
    405: ("method_not_allowed", "This path does not take this method."),
}
"""Of what Starlette itself raises, which is no more than this."""
_HEADERS: dict[str, Mapping[str, str]] = {
    "queue_full": {"retry-after": "1"},
    "rate_limit_exceeded": {"retry-after": "60"},  # at most: whoever raises it knows better
    "model_loading": {"retry-after": "2"},
    "draining": {"retry-after": "5"},
    "over_memory_budget": {"retry-after": "5"},
    "engine_dead": {"retry-after": "10"},
    "server_shutdown": {"retry-after": "5"},
    # Deterministic failures: the SDKs would send the same request three times.
    "profile_unavailable": {"retry-after": "60", "x-should-retry": "false"},
    "job_already_running": {"x-should-retry": "false"},
    "jobs_unavailable": {"retry-after": "60", "x-should-retry": "false"},
    "profile_exists": {"x-should-retry": "false"},
    "profile_in_use": {"x-should-retry": "false"},
    "storage_full": {"x-should-retry": "false"},
    "numerical_error": {"x-should-retry": "false"},
    "missing_api_key": {"www-authenticate": "Bearer"},
    "invalid_api_key": {"www-authenticate": "Bearer"},
}


class ApiError(Exception):
    """An error of the edge: `code` decides status, type and headers; `param` is the dotted path of the field."""

    def __init__(
        self, code: str, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param
        self.status, self.type = _KINDS[code]
        self.headers = {**_HEADERS.get(code, {}), **(headers or {})}

    def reply(self) -> ErrorReply:
        """What goes on the wire: bounded, and encodable even if the request was not."""
        return {
            "error": {
                "message": _clean(self.message, MAX_MESSAGE),
                "type": self.type,
                "param": None if self.param is None else _clean(self.param, MAX_PARAM),
                "code": self.code,
            }
        }


def to_api_error(error: Exception) -> ApiError:
    """The same error as the edge reports it: by the nearest class in the MRO that has a code."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        code, message = _OF_STATUS.get(error.status_code, ("internal_error", INTERNAL))
        return ApiError(code, message, headers=error.headers)
    if isinstance(error, RequestValidationError):
        return ApiError("invalid_value", "A parameter in the path, the query or a header is not valid.")
    for kind in type(error).__mro__:
        if kind in _CODE_OF:
            return ApiError(_CODE_OF[kind], str(error), getattr(error, "param", None))
    return ApiError("internal_error", INTERNAL)


def note(error: ApiError, scope: Scope) -> None:
    """Counts an error that a client is told, and keeps its code for the log."""
    scope["app"].state.metrics.errors.labels(error.code).inc()
    record_of(scope).code = error.code


def error_response(error: ApiError, scope: Scope) -> JSONResponse:
    note(error, scope)
    return JSONResponse(error.reply(), error.status, error.headers)


def install_handlers(app: FastAPI) -> None:
    """Every exception that leaves a route becomes a reply here, and only here."""
    for kind in (ApiError, HTTPException, RequestValidationError, library.SteeringError):
        app.add_exception_handler(kind, _handle)
    app.add_exception_handler(Exception, _handle_unexpected)


async def _handle(request: Request, error: Exception) -> JSONResponse:
    told = to_api_error(error)
    if told.code == "internal_error":
        known = isinstance(error, library.EngineFailure)  # logged where it happened
        logger.error("request %s failed", request_id_of(request.scope), exc_info=None if known else error)
    if told.code == "method_not_allowed":
        told.headers["Allow"] = _allowed(request.scope)
    return error_response(told, request.scope)


def _allowed(scope: Scope) -> str:
    """All methods that the path takes: routes may share one, and Starlette names those of the first alone."""
    routes: Iterable[Route] = scope["app"].state.routes
    matching = [route for route in routes if route.matches(scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in matching for method in route.methods or ()}))


async def _handle_unexpected(request: Request, error: Exception) -> JSONResponse:
    """Runs outside every middleware of ours (Starlette logs and re-raises), so it adds the request id itself."""
    response = error_response(to_api_error(error), request.scope)
    response.headers["x-request-id"] = request_id_of(request.scope)
    logger.error("request %s failed", request_id_of(request.scope))
    return response


def _clean(text: str, limit: int) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"
