"""GET /v1/steering/profiles, one of them, its card, its file"""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from server.deps import Loaded
from server.etags import has_it
from server.schemas.steering import ProfileDetails, ProfileList
from server.translate import catalog
from steering.one_file import SUFFIX, OneFile
from steering.pack import Pack

router = APIRouter()
_BINARY = "application/octet-stream"
_UNCHANGED = {"description": "It still has the digest of If-None-Match"}


@router.get("/v1/steering/profiles", operation_id="list_profiles", summary="The packs; broken ones with the reason")
async def list_profiles(served: Loaded) -> ProfileList:
    return {"object": "list", "data": catalog.profiles(served)}


@router.get(
    "/v1/steering/profiles/{name}",
    operation_id="retrieve_profile",
    summary="One pack by name or name@digest, with its corrections and its evidence; the ETag is its digest",
    responses={200: {"model": ProfileDetails}, 304: _UNCHANGED},
)
async def retrieve_profile(name: str, request: Request, served: Loaded) -> Response:
    pack = catalog.profile(name, served)
    if not isinstance(pack, Pack):
        return JSONResponse(pack)
    return _unless_known(request, pack) or JSONResponse(catalog.profile_details(pack, served), headers=etag(pack))


@router.get(
    "/v1/steering/profiles/{name}/card",
    operation_id="retrieve_profile_card",
    summary="What there is to say about a pack to people, in Markdown; the ETag is the pack's digest",
    responses={
        200: {"content": {"text/markdown": {"schema": {"type": "string"}}}},
        304: _UNCHANGED,
    },
    response_class=Response,
)
async def retrieve_profile_card(name: str, request: Request, served: Loaded) -> Response:
    pack = catalog.usable_profile(name, served)
    markdown = Response(
        pack.card, media_type="text/markdown", headers=etag(pack) | {"x-content-type-options": "nosniff"}
    )
    return _unless_known(request, pack) or markdown


@router.get(
    "/v1/steering/profiles/{name}/file",
    operation_id="retrieve_profile_file",
    summary="A whole pack in one file, as it can be uploaded; the ETag is the pack's digest",
    responses={
        200: {"content": {_BINARY: {"schema": {"type": "string", "format": "binary"}}}},
        304: _UNCHANGED,
    },
    response_class=Response,
)
async def retrieve_profile_file(name: str, request: Request, served: Loaded) -> Response:
    pack = catalog.usable_profile(name, served)
    if unchanged := _unless_known(request, pack):
        return unchanged
    file = await to_thread.run_sync(catalog.profile_file, name, served)
    headers = {"content-length": str(file.size), "content-disposition": f'attachment; filename="{pack.name}{SUFFIX}"'}
    return StreamingResponse(file.pieces(), media_type=_BINARY, headers=etag(file) | headers)


def _unless_known(request: Request, pack: Pack) -> Response | None:
    """304 for a client that has it."""
    headers = etag(pack)
    is_known = has_it(request.headers.getlist("if-none-match"), headers["etag"])
    return Response(status_code=304, headers=headers) if is_known else None


def etag(pack: Pack | OneFile) -> dict[str, str]:
    return {"etag": f'"{pack.digest}"'}
