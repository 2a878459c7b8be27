"""PUT and DELETE /v1/steering/profiles/{name}"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.deps import Config, Loaded
from server.errors import ApiError, ErrorReply
from server.routes.profiles import UNKNOWN, etag
from server.schemas.steering import Profile
from server.size import bytes_of
from server.translate import catalog
from server.translate.uploads import change_asked, told, uploads_of

router = APIRouter()
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "description": "The ETag that the profile has now, or `*` for whichever.",
    "schema": {"type": "string"},
}
_FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_REFUSED: dict[int | str, dict[str, Any]] = {
    403: {"model": ErrorReply, "description": "profile_read_only, profile_quota_exceeded, insufficient_scope"},
    409: {"model": ErrorReply, "description": "profile_exists, profile_in_use"},
    412: {"model": ErrorReply, "description": "etag_mismatch"},
}


@router.put(
    "/v1/steering/profiles/{name}",
    operation_id="upload_profile",
    summary="Make a profile of a pack in one file; with If-Match, replace the one that has this ETag",
    responses={
        200: {"model": Profile, "description": "Replaced"},
        201: {"model": Profile, "description": "Made"},
        413: {"model": ErrorReply, "description": "request_too_large"},
        507: {"model": ErrorReply, "description": "storage_full"},
        **_REFUSED,
    },
    openapi_extra={"parameters": [_IF_MATCH], "requestBody": {"required": True, "content": _FILE}},
)
async def upload_profile(name: str, request: Request, served: Loaded, settings: Config) -> Response:
    change = change_asked(name, request, "absent")
    with told():
        uploading, most = request.app.state.uploading, bytes_of(settings.max_upload) or 0
        pack = await uploading.put(request, uploads_of(served), change, most)
    is_new = change.expected == "absent"
    headers = etag(pack) | ({"location": request.url.path} if is_new else {})
    return JSONResponse(catalog.listed(name, pack, served), 201 if is_new else 200, headers)


@router.delete(
    "/v1/steering/profiles/{name}",
    operation_id="delete_profile",
    summary="Take an uploaded profile away; with If-Match, only the one that has this ETag",
    status_code=204,
    responses={404: UNKNOWN, **_REFUSED},
    openapi_extra={"parameters": [_IF_MATCH]},
)
async def delete_profile(name: str, request: Request, served: Loaded) -> Response:
    change = change_asked(name, request, "present")
    uploads = uploads_of(served)
    if name == served.default_profile:
        raise ApiError("profile_in_use", f"{name} is the default profile: the server was started with it.", "name")
    await request.app.state.uploading.delete(request, uploads, change)
    return Response(status_code=204)
