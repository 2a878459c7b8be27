"""GET /v1/steering/profiles, one of them, its card"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.deps import Loaded
from server.errors import ApiError, ErrorReply
from server.schemas.steering import ProfileDetails, ProfileList
from server.translate import catalog
from steering.pack import Pack

router = APIRouter()
_UNCHANGED = {"description": "It still has the digest of If-None-Match"}
_UNKNOWN = {"model": ErrorReply, "description": "steering_profile_not_found"}


@router.get("/v1/steering/profiles", operation_id="list_profiles", summary="The packs; broken ones with the reason")
async def list_profiles(served: Loaded) -> ProfileList:
    return {"object": "list", "data": catalog.profiles(served)}


@router.get(
    "/v1/steering/profiles/{name}",
    operation_id="retrieve_profile",
    summary="One pack by name or name@digest, with its corrections and its evidence; the ETag is its digest",
    responses={200: {"model": ProfileDetails}, 304: _UNCHANGED, 404: _UNKNOWN},
)
async def retrieve_profile(name: str, request: Request, served: Loaded) -> Response:
    pack = catalog.profile(name, served)
    if not isinstance(pack, Pack):
        return JSONResponse(pack)
    return _unless_known(request, pack) or JSONResponse(
        catalog.profile_details(pack, served.model.layout), headers=_etag(pack)
    )


@router.get(
    "/v1/steering/profiles/{name}/card",
    operation_id="retrieve_profile_card",
    summary="What there is to say about a pack to people, in Markdown; the ETag is the pack's digest",
    responses={
        200: {"content": {"text/markdown": {"schema": {"type": "string"}}}},
        304: _UNCHANGED,
        404: _UNKNOWN,
    },
    response_class=Response,
)
async def retrieve_profile_card(name: str, request: Request, served: Loaded) -> Response:
    pack = catalog.profile(name, served)
    if not isinstance(pack, Pack):
        raise ApiError("profile_unavailable", f"{name}: {pack['broken']}", "name")
    markdown = Response(
        pack.card, media_type="text/markdown", headers=_etag(pack) | {"x-content-type-options": "nosniff"}
    )
    return _unless_known(request, pack) or markdown


def _unless_known(request: Request, pack: Pack) -> Response | None:
    """304 for a client that has it."""
    known = [tag.strip() for line in request.headers.getlist("if-none-match") for tag in line.split(",")]
    is_known = any(tag.removeprefix("W/") in ("*", f'"{pack.digest}"') for tag in known)
    return Response(status_code=304, headers=_etag(pack)) if is_known else None


def _etag(pack: Pack) -> dict[str, str]:
    return {"etag": f'"{pack.digest}"'}
