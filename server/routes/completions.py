"""POST /v1/completions"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.deps import Config, Engine, Loaded
from server.routes.answering import answer, prepared
from server.schemas.replies import TextCompletion
from server.translate.completion_reply import CompletionReply
from server.translate.completions import prepare

router = APIRouter()


@router.post(
    "/v1/completions",
    operation_id="create_completion",
    summary="Continuations of texts, and what the model thinks of the texts themselves, steered or not",
    responses={200: {"model": TextCompletion}},
)
async def create_completion(request: Request, engine: Engine, served: Loaded, config: Config) -> Response:
    call = await prepared(prepare, request, served, config)
    return await answer(CompletionReply(call, served.model), request, engine)
