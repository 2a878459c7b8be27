"""POST /v1/responses"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.deps import Config, Engine, Loaded
from server.routes.answering import answer, constrained, prepared
from server.schemas.response_replies import ResponseReply
from server.translate.responses import prepare
from server.translate.responses_reply import ResponsesReply

router = APIRouter()


@router.post(
    "/v1/responses",
    operation_id="create_response",
    summary="One answer in OpenAI's newer form, steered or not; nothing is kept of it",
    responses={200: {"model": ResponseReply}},
)
async def create_response(request: Request, engine: Engine, served: Loaded, config: Config) -> Response:
    call = await constrained(await prepared(prepare, request, served, config), request, served)
    return await answer(ResponsesReply(call, served.model), request, engine)
