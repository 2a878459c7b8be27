"""POST /v1/chat/completions"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.deps import Config, Engine, Loaded
from server.routes.answering import answer, constrained, prepared
from server.schemas.replies import ChatCompletion
from server.translate.chat import prepare
from server.translate.chat_reply import ChatReply

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    operation_id="create_chat_completion",
    summary="Answers to a conversation, steered or not",
    responses={200: {"model": ChatCompletion}},
)
async def create_chat_completion(request: Request, engine: Engine, served: Loaded, config: Config) -> Response:
    call = await constrained(await prepared(prepare, request, served, config), request, served)
    return await answer(ChatReply(call, served.model), request, engine)
