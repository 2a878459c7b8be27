"""What every route that generates does with a call: run it, and send its reply whole or as a stream."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from server.async_engine import AsyncEngine, Events
from server.caller import Caller, caller_in, caller_of
from server.deps import json_body
from server.errors import note, to_api_error
from server.off_the_loop import off_the_loop
from server.request_id import request_id_of
from server.serving import Served
from server.settings import Settings
from server.sse import DONE, EventStream, frame
from server.translate.call import Call
from server.translate.constraint import compile_shape, constrain
from server.translate.record import Recorder, recorded
from server.translate.reply import Reply
from server.translate.steering import HEADER
from server.usage import most_tokens, used
from steering.engine.request import TokenEvent
from steering.plan import Mode

logger = logging.getLogger(__name__)

Prepare = Callable[[bytes, Sequence[str], Served, Mode, Caller], Call]


async def prepared(prepare: Prepare, request: Request, served: Served, settings: Settings) -> Call:
    """The call that the body asks for, made off the event loop."""
    body, caller = await json_body(request), caller_in(request.scope)
    work = partial(prepare, body, request.headers.getlist(HEADER), served, settings.default_mode, caller)
    call = await off_the_loop(work, request.app.state.preparing)
    return call.of(caller_of(request.scope))


async def constrained(call: Call, request: Request, served: Served) -> Call:
    """The call with its shape compiled, one at a time: hostile ones wait for each other, and nobody for them."""
    if call.shape is None:
        return call
    constraint = served.grammars.find(call.shape)
    if constraint is None:
        work = partial(compile_shape, served.grammars, call.shape, call.names)
        return constrain(call, await off_the_loop(work, request.app.state.compiling))
    return constrain(call, constraint)


async def answer(reply: Reply, request: Request, engine: AsyncEngine) -> Response:
    call, metrics = reply.call, request.app.state.metrics
    metrics.retries.inc(request.headers.get("x-stainless-retry-count", "0") != "0")
    events = _events(reply, request, engine)
    if call.stream:
        frames = _frames(reply, events, request.scope)
        # Until the first token nothing is sent, so what fails before it still gets a status of its own.
        return EventStream(await anext(frames), frames, call.headers)
    async with aclosing(events):
        gathered = [event async for event in events]
    return JSONResponse(reply.whole(gathered), headers=call.headers)


async def _events(reply: Reply, request: Request, engine: AsyncEngine) -> AsyncGenerator[TokenEvent, None]:
    call, scope = reply.call, request.scope
    recorder = Recorder(call, reply.model, request.app.state.traces, owner=caller_of(scope))
    most, profile = most_tokens(call.requests), call.headers["x-steering-profile"]
    with used(scope, engine, most, model=call.model, profile=profile, stream=call.stream) as submit:
        async with aclosing(recorded(submit(call.requests), recorder)) as events:
            async for event in events:
                yield event


async def _frames(reply: Reply, events: Events, scope: Scope) -> AsyncGenerator[bytes, None]:
    """The stream. An error after the first byte is a frame of its own, and then the end: the SDKs raise it."""
    async with aclosing(events):
        yield _encode(reply.chunks(await anext(events)))
        try:
            async for event in events:
                yield _encode(reply.chunks(event))
            yield _encode(reply.closing()) + DONE
        except Exception as error:  # never end a stream without a word
            logger.warning("request %s ended by %s after its first token", request_id_of(scope), type(error).__name__)
            told = to_api_error(error)
            note(told, scope)
            yield _encode(reply.failing(told.reply()))


def _encode(chunks: Iterable[Mapping[str, object]]) -> bytes:
    return b"".join(map(frame, chunks))
