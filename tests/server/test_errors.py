"""The table of codes: complete, bounded, and what the retries of the SDKs need."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import server
from openapi.export import document
from server.errors import _CODE_OF, _HEADERS, _KINDS, _OF_STATUS, ApiError, to_api_error
from server.jobs.supervisor import REFUSING
from server.request_log import AUDITED
from server.schemas.violations import _BOUNDS, _LENGTHS
from server.translate import uploads
from steering import errors as library
from tests.server.refusals import LASTING

SOURCES = sorted(Path(server.__file__).parent.rglob("*.py"))


def written_codes() -> Iterator[str]:
    """Texts that stand in the source where a code does: what errors are made of, and what a code is compared with."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="ApiError" | "PydanticCustomError"), args=[code, *_]):
                    yield from texts(code)
                case ast.keyword(arg="custom_error_type", value=code):
                    yield from texts(code)
                case ast.Assign(targets=[ast.Name(id="code")], value=code):
                    yield from texts(code)
                case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id="code"), *_])], value=value):
                    pairs = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
                    yield from (text for pair in pairs if isinstance(pair, ast.Tuple) for text in texts(pair.elts[0]))
                case ast.Compare(left=ast.Attribute(attr="code"), comparators=[code]):
                    yield from texts(code)


def texts(expression: ast.expr) -> list[str]:
    """That it may be; of what is put together from pieces or looked up, none."""
    match expression:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=one, orelse=other):
            return texts(one) + texts(other)
    return []


def test_every_code_that_is_written_has_a_status() -> None:
    written = set(written_codes())
    assert written <= _KINDS.keys() and len(written) > 40
    assert {"invalid_type", "unknown_parameter", "missing_required_parameter", "unsupported_content"} <= written
    tables = {*_CODE_OF.values(), *_HEADERS, *(code for code, _ in _OF_STATUS.values())}
    tables |= {*uploads._CODE_OF.values(), *_LENGTHS.values(), *REFUSING, *AUDITED}
    tables |= {f"{number}_{bound}" for number in ("integer", "decimal") for bound in _BOUNDS.values()}
    assert tables <= _KINDS.keys()
    assert written | tables == _KINDS.keys()


def test_the_codes_of_the_openapi_document_have_their_status() -> None:
    named = [
        (int(status), code)
        for operations in json.loads(document())["paths"].values()
        for operation in operations.values()
        for status, reply in operation["responses"].items()
        if status.isdigit() and int(status) >= 400
        for code in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", reply["description"])
    ]
    assert len(named) > 10 and all(_KINDS[code][0] == status for status, code in named)


def test_alerts_watch_codes_that_there_are() -> None:
    watched = re.findall(r'code=~?"([^"]+)"', (SOURCES[0].parent / "deploy" / "alerts.yml").read_text(encoding="utf-8"))
    assert watched and {code for codes in watched for code in codes.split("|")} <= _KINDS.keys()


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


@pytest.mark.parametrize("code", sorted(_KINDS))
def test_retries(code: str) -> None:
    """SDKs retry 408, 409, 429 and 5xx: those that pass say when, those that stay say no."""
    error = ApiError(code, "")
    if error.status in (429, 503):
        assert 1 <= int(error.headers["retry-after"]) <= 60
    assert (error.headers.get("x-should-retry") == "false") == (code in LASTING)
