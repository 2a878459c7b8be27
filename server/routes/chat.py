"""POST /v1/chat/completions"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from functools import partial

from anyio import to_thread
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.async_engine import Events
from server.deps import Config, Engine, Loaded, json_body
from server.errors import to_api_error
from server.request_id import request_id_of
from server.schemas.replies import ChatCompletion
from server.sse import DONE, EventStream, frame
from server.translate.chat import prepare
from server.translate.reply import Reply
from server.translate.steering import HEADER

logger = logging.getLogger(__name__)
router = APIRouter()


@router.post(
    "/v1/chat/completions",
    operation_id="create_chat_completion",
    summary="An answer to a conversation, steered or not",
    responses={200: {"model": ChatCompletion}},
)
async def create_chat_completion(request: Request, engine: Engine, served: Loaded, config: Config) -> Response:
    body = await json_body(request)
    work = partial(prepare, body, request.headers.getlist(HEADER), served, config.default_mode)
    call = await to_thread.run_sync(work, abandon_on_cancel=True, limiter=request.app.state.preparing)
    reply, events = Reply(call, served.model), engine.submit(call.request)
    if call.stream:
        frames = _frames(reply, events, request_id_of(request.scope))
        # Until the first token nothing is sent, so what fails before it still gets a status of its own.
        return EventStream(await anext(frames), frames, call.headers)
    async with aclosing(events):
        gathered = [event async for event in events]
    return JSONResponse(reply.completion(gathered), headers=call.headers)


async def _frames(reply: Reply, events: Events, request_id: str) -> AsyncGenerator[bytes, None]:
    """The stream. An error after the first byte is a frame of its own, and then the end: the SDKs raise it."""
    async with aclosing(events):
        event = await anext(events)
        yield frame(reply.opening()) + _encode(reply.chunks(event))
        try:
            async for event in events:
                yield _encode(reply.chunks(event))
            if reply.call.include_usage:
                yield frame(reply.usage_chunk(event))
            yield DONE
        except Exception as error:  # never end a stream without a word
            logger.warning("request %s ended by %s after its first token", request_id, type(error).__name__)
            yield frame(to_api_error(error).reply())


def _encode(chunks: Iterable[Mapping[str, object]]) -> bytes:
    return b"".join(map(frame, chunks))
