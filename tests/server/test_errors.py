"""The table of codes: complete, bounded, and what the retries of the SDKs need."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import server
from server.errors import _CODE_OF, _HEADERS, _KINDS, ApiError, to_api_error
from steering import errors as library

SOURCES = sorted(Path(server.__file__).parent.rglob("*.py"))


def raised_codes() -> Iterator[str]:
    """First arguments of `ApiError(...)` and `PydanticCustomError(...)`, as they stand in the source."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name(id="ApiError" | "PydanticCustomError"), args=[ast.Constant(value=code), *_]
                ):
                    yield code


def test_every_code_that_is_raised_has_a_status() -> None:
    raised = set(raised_codes())
    assert len(raised) > 20 and raised <= _KINDS.keys()
    assert set(_CODE_OF.values()) | _HEADERS.keys() <= _KINDS.keys()


def test_every_error_of_the_library_has_a_code() -> None:
    errors = [kind for kind in vars(library).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    startup, data = (library.UnsupportedModel, library.MemoryTooSmall), (library.DataError, library.LensError)
    of_commands = (*startup, *data, library.CalibrationError, library.EvaluationError)
    for kind in set(errors) - {library.SteeringError}:
        assert issubclass(kind, of_commands) or any(base in _CODE_OF for base in kind.__mro__), kind


def test_the_nearest_class_decides() -> None:
    class Odd(library.ContextLengthExceeded):
        pass

    error = to_api_error(Odd("too long", "messages"))
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")


def test_what_is_unknown_tells_nothing() -> None:
    reply = to_api_error(KeyError("/etc/passwd")).reply()
    assert reply["error"]["code"] == "internal_error" and "passwd" not in json.dumps(reply)


def test_replies_are_bounded_and_encodable() -> None:
    reply = ApiError("invalid_value", "x\ud800" * 100_000, "p" * 100_000).reply()
    assert len(json.dumps(reply, ensure_ascii=False).encode()) < 8_000


LASTING = {"numerical_error", "profile_unavailable", "profile_exists", "profile_in_use", "storage_full"} | {
    "job_already_running",
    "jobs_unavailable",
}


@pytest.mark.parametrize("code", sorted(_KINDS))
def test_retries(code: str) -> None:
    """SDKs retry 408, 409, 429 and 5xx: those that pass say when, those that stay say no."""
    error = ApiError(code, "")
    if error.status in (429, 503):
        assert 1 <= int(error.headers["retry-after"]) <= 60
    assert (error.headers.get("x-should-retry") == "false") == (code in LASTING)
