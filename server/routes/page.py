"""GET / and /assets/*: the page, built from clients/page. It talks to this API and to nothing else."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from mimetypes import guess_type
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.errors import ApiError
from server.etags import has_it

router = APIRouter()
_FOLDER = Path(__file__).parent.parent / "page"
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "vary": "accept-encoding",
}
_FOREVER = "public, max-age=31536000, immutable"
"""Of files whose names change with what is in them."""


@dataclass(frozen=True)
class File:
    content: bytes
    zipped: bytes
    media_type: str
    etag: str


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    return _send(_files()["index.html"], request, "no-cache")


@router.get("/assets/{name}", include_in_schema=False)
async def asset(name: str, request: Request) -> Response:
    file = _files().get(f"assets/{name}")
    if file is None:
        raise ApiError("not_found", f"The page has no file {name[:80]!r}; if it was updated, load it again.")
    return _send(file, request, _FOREVER)


def _send(file: File, request: Request, caching: str) -> Response:
    """Always whole: `Range` may be ignored, and so a thousand ranges cost nothing."""
    headers = {**_HEADERS, "cache-control": caching, "etag": file.etag}
    if has_it(request.headers.getlist("if-none-match"), file.etag):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.zipped, media_type=file.media_type, headers=headers | {"content-encoding": "gzip"})
    return Response(file.content, media_type=file.media_type, headers=headers)


@cache
def _files() -> dict[str, File]:
    """All of it, by its path: a few hundred kilobytes, read once."""
    paths = (path for path in _FOLDER.rglob("*") if path.is_file())
    return {path.relative_to(_FOLDER).as_posix(): _read(path) for path in paths}


def _read(path: Path) -> File:
    content = path.read_bytes()
    media_type = guess_type(path.name)[0] or "application/octet-stream"
    etag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'  # weak: the same, zipped or not
    return File(content, gzip.compress(content, mtime=0), media_type, etag)
