"""PUT and DELETE /v1/steering/profiles/{name}"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.deps import Config, Loaded
from server.errors import ApiError
from server.routes.profiles import etag
from server.schemas.steering import Profile
from server.size import bytes_of
from server.translate import catalog
from server.translate.uploads import change_asked, told, uploads_of

router = APIRouter()
_FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.put(
    "/v1/steering/profiles/{name}",
    operation_id="upload_profile",
    summary="Make a profile of a pack in one file; with If-Match, replace the one that has this ETag",
    responses={
        200: {"model": Profile, "description": "Replaced"},
        201: {"model": Profile, "description": "Made"},
    },
    openapi_extra={"requestBody": {"required": True, "content": _FILE}},
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
    response_class=Response,
)
async def delete_profile(name: str, request: Request, served: Loaded) -> Response:
    change = change_asked(name, request, "present")
    uploads = uploads_of(served)
    if name == served.default_profile:
        raise ApiError("profile_in_use", f"{name} is the default profile: the server was started with it.", "name")
    await request.app.state.uploading.delete(request, uploads, change)
    return Response(status_code=204)
