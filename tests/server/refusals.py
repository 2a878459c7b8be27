"""What every refusal has in common."""

from __future__ import annotations

from tests.server.live import Live

LASTING = {"numerical_error", "profile_unavailable", "profile_exists", "profile_in_use", "storage_full"} | {
    "job_already_running",
    "jobs_unavailable",
}
"""Codes of what stays as it is: SDKs would send the request three times, and are told not to."""


def refused(
    live: Live, code: str, param: str | None, *, status: int = 400, says: str = "", ask: str = "chat", **fields: object
) -> None:
    """ask: `chat` or `complete`, the route."""
    reply = getattr(live, ask)(**fields)
    assert reply.headers["x-request-id"] and len(reply.content) < 32_000
    error = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (reply.status_code, error["code"], error["param"]) == (status, code, param), reply.text
    assert error["type"] == "invalid_request_error" and says in error["message"], reply.text


def user(content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content}]
