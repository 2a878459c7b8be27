"""One line a request, at its end, and refusals of keys to the audit log."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.audit import audit
from server.caller import address_of, key_id
from server.request_id import request_id_of
from server.request_record import record_of

logger = logging.getLogger("unsway.request")

MAX_PATH = 200
MAX_METHOD = 16
AUDITED = frozenset({"invalid_api_key", "insufficient_scope", "steering_policy"})
"""Codes of refusals that are kept. Guesses are few of an address: more are told `rate_limit_exceeded`."""


@dataclass
class _Sent:
    status: int | None = None
    complete: bool = False


class RequestLog:
    """Pure ASGI middleware, around all that answers. It logs routes and numbers: no body, no query, no header but the
    request's id, which is harmless."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record_of(scope)  # its clock starts
        sent = _Sent()

        async def watched(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                sent.status = message["status"]
            elif message["type"] == "http.response.body":
                sent.complete = not message.get("more_body", False)

        try:
            await self.app(scope, receive, watched)
        except Exception:  # answered further out
            sent.status, sent.complete = 500, True
            record_of(scope).code = "internal_error"
            raise
        finally:
            _tell(scope, sent)


def _tell(scope: Scope, sent: _Sent) -> None:
    fields = _fields(scope, sent)
    logger.info(_line(fields), extra={"fields": fields})
    if record_of(scope).code in AUDITED:
        told = {name: fields.get(name) for name in ("code", "method", "route", "path")}
        audit(scope, "access_denied", **{name: value for name, value in told.items() if value is not None})


def _fields(scope: Scope, sent: _Sent) -> dict[str, str | int | float | bool]:
    """What is known, in the order in which it is read."""
    record = record_of(scope)
    first, route = record.first_token, scope.get("route")
    fields: dict[str, str | int | float | bool | None] = {
        "method": scope["method"][:MAX_METHOD],
        "route": getattr(route, "path", None),
        "path": quote(scope["path"])[:MAX_PATH] if route is None else None,
        "status": sent.status,
        "code": record.code,
        "duration_ms": round(record.elapsed * 1000, 1),
        "request_id": request_id_of(scope),
        "address": address_of(scope),
        "key": key_id(scope),
        "model": record.model,
        "profile": record.profile,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "steered_tokens": record.steered_tokens,
        "ttft_ms": None if first is None else round(first * 1000, 1),
        "disconnected": None if sent.complete else True,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _line(fields: dict[str, str | int | float | bool]) -> str:
    head = [str(fields[name]) for name in ("method", "route", "path", "status") if name in fields]
    rest = [f"{name}={value}" for name, value in fields.items() if name not in ("method", "route", "path", "status")]
    return " ".join([*head, *rest])
