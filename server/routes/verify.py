"""POST /v1/steering/verify"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.caller import caller_in, caller_of
from server.deps import Engine, Loaded, json_body
from server.off_the_loop import off_the_loop
from server.schemas.verify import VerifyReply
from server.translate.verify import prepare, to_read
from server.usage import Submit, used
from steering.engine.request import Completion, Token
from steering.engine.request import Request as Asked
from steering.errors import EngineFailure

router = APIRouter()


@router.post(
    "/v1/steering/verify",
    operation_id="verify_answer",
    summary="Whether an answer is what the early layers would have said, or drifted from it",
    responses={200: {"model": VerifyReply}},
)
async def verify_answer(request: Request, engine: Engine, served: Loaded) -> Response:
    body, limiter, caller = await json_body(request), request.app.state.preparing, caller_of(request.scope)

    call = await off_the_loop(partial(prepare, body, served, caller_in(request.scope)), limiter)
    with used(request.scope, engine, call.most_tokens, model=served.model.name, profile=call.profile) as submit:
        run = partial(_ended, submit, caller)
        said = None if call.generates is None else await run(call.generates)
        reading = await off_the_loop(partial(to_read, call, said, served), limiter)
        grids = [(await run(asked)).lens for asked in reading.requests]
        decided = await off_the_loop(partial(reading.decide, grids), limiter)
        exit_ = None if decided.continues is None else await run(decided.continues)
        return JSONResponse(await off_the_loop(partial(decided.reply, exit_), limiter))


async def _ended(submit: Submit, caller: str, asked: Asked) -> Completion:
    """Its only answer. One request after another: so this takes no more places in the queue than any other call."""
    text, tokens = "", list[Token]()
    async with aclosing(submit([replace(asked, key=caller)])) as events:
        async for event in events:
            text += event.text
            tokens += [] if event.token is None else [event.token]
            if event.finish is not None:
                return Completion(asked.id, text, tuple(tokens), event.finish, lens=event.lens)
    raise EngineFailure("an answer ended without its terminal event.")
