"""POST /v1/steering/lens"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.caller import caller_of
from server.deps import Engine, Loaded, json_body
from server.off_the_loop import off_the_loop
from server.schemas.lens import LensReply
from server.serving import Served
from server.translate.lens import LensCall, prepare, reply
from server.usage import most_tokens, used
from steering.engine.lens_query import Grid

router = APIRouter()


@router.post(
    "/v1/steering/lens",
    operation_id="read_lens",
    summary="What every layer would say at a prompt's positions, and how probable candidates are there",
    responses={200: {"model": LensReply}},
)
async def read_lens(request: Request, engine: Engine, served: Loaded) -> Response:
    body, limiter = await json_body(request), request.app.state.preparing
    call = await off_the_loop(partial(prepare, body, served), limiter)
    asked = replace(call.request, key=caller_of(request.scope))
    most, model = most_tokens([asked]), served.model.name
    with used(request.scope, engine, most, model=model, profile=call.profile) as submit:
        async with aclosing(submit([asked])) as events:
            (grid,) = [event.lens async for event in events]
        return await off_the_loop(partial(_written, call, grid, served), limiter)


def _written(call: LensCall, grid: Grid, served: Served) -> Response:
    return JSONResponse(reply(call, grid, served.model))
