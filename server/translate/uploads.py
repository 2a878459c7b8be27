"""A request that changes a profile -> what the library is asked for; and its refusals -> errors of the edge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from starlette.requests import Request

from server.caller import caller_of, is_admin
from server.errors import ApiError
from server.etags import etags
from server.schemas.steering import ProfileName
from server.schemas.violations import validate
from server.serving import Served
from steering import errors as library
from steering.uploads import Expected, Uploads, Writer

_CODE_OF: dict[type[library.PackCorrupt], str] = {
    library.UnsupportedFile: "unsupported_file_format",
    library.TensorFileCorrupt: "invalid_tensor_file",
    library.TensorMismatch: "shape_mismatch",
    library.TensorNotFinite: "non_finite_number",
    library.PackOutOfRange: "layer_out_of_range",
    library.PackKeyUnknown: "unknown_parameter",
    library.PackCorrupt: "invalid_value",
}
"""Of a file that was sent; the same faults of one that lies on the disk are `profile_unavailable`."""


class Change(NamedTuple):
    """Of which profile, by whom, and what they take it to be."""

    name: str
    by: Writer
    expected: Expected


def uploads_of(served: Served) -> Uploads:
    if served.uploads is None:
        raise ApiError(
            "profile_read_only", "Profiles cannot be changed: start the server with --uploads FOLDER to allow it."
        )
    return served.uploads


def change_asked(name: str, request: Request, otherwise: Expected) -> Change:
    """otherwise: what is expected of a name by who says nothing about it."""
    for key in request.query_params:
        raise ApiError("unknown_parameter", f"{key[:100]} is not a known parameter; there are none.", key)
    validate(ProfileName, {"name": name})
    by = Writer(caller_of(request.scope), is_admin(request.scope))
    return Change(name, by, _expected(request, otherwise))


@contextmanager
def told() -> Iterator[None]:
    """What is wrong with a file that was sent is the request's fault."""
    try:
        yield
    except library.PackCorrupt as error:
        code = next(_CODE_OF[kind] for kind in type(error).__mro__ if kind in _CODE_OF)
        raise ApiError(code, f"The file is refused: {error}", getattr(error, "key", None)) from error
    except library.PackExists as error:
        message = f"{error} To replace it, send its ETag as If-Match; to keep it, choose another name."
        raise ApiError("profile_exists", message, "name") from error


def _expected(request: Request, otherwise: Expected) -> Expected:
    is_match, is_none = (request.headers.getlist(name) for name in ("if-match", "if-none-match"))
    if is_none:
        if is_none != ["*"] or is_match or otherwise != "absent":
            raise ApiError(
                "invalid_value", "If-None-Match can only be *, alone, where a profile is made.", "If-None-Match"
            )
        return "absent"
    if not is_match:
        return otherwise
    tags = etags(is_match)
    if tags is None:
        raise ApiError(
            "invalid_value", 'If-Match must be the ETag of the profile, in its quotes: "<digest>".', "If-Match"
        )
    return "present" if tags == ["*"] else frozenset(tag.strip('"') for tag in tags if not tag.startswith("W/"))
