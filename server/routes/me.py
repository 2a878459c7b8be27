"""GET /v1/me: what the key of a request may, and what it gets."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request

from server.caller import caller_in
from server.schemas.keys import Me
from server.translate.me import describe

router = APIRouter()


@router.get(
    "/v1/me",
    operation_id="retrieve_me",
    summary="The key of this request: scopes, default steering, limits",
    response_model_exclude_none=True,
)
async def retrieve_me(request: Request) -> Me:
    return describe(caller_in(request.scope))
