"""What requests use: taken from their key's account, and noted for the log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from starlette.types import Scope

from server.async_engine import Events
from server.limits import Reservation, account_in
from server.request_record import record_of
from server.translate.call import Call
from steering.engine.request import Request, TokenEvent


def reserved(requests: Sequence[Request], scope: Scope) -> Reservation:
    """Takes as many tokens as they may come to, or raises `rate_limit_exceeded`. Whoever generates settles it in the
    end; a prompt that is only read is used whole."""
    record, prompts = record_of(scope), sum(len(request.prompt_ids) for request in requests)
    answers = sum(choice.sampling.max_tokens for request in requests for choice in request.choices)
    reservation = account_in(scope).reserve(prompts + answers)
    record.prompt_tokens = (record.prompt_tokens or 0) + prompts
    return reservation


def accounted(events: Events, call: Call, scope: Scope) -> Events:
    """The same events. What they may come to is taken now, and what was not used is given back at the end, however that
    comes."""
    record = record_of(scope)
    record.model, record.profile = call.model, call.headers["x-steering-profile"]
    reservation = reserved(call.requests, scope)
    record.completion_tokens = record.steered_tokens = 0

    async def counted() -> AsyncGenerator[TokenEvent, None]:
        used = record.prompt_tokens or 0
        try:
            async with aclosing(events):
                async for event in events:
                    if event.token is not None:
                        used += 1
                        record.first_token = record.first_token or record.elapsed
                    if event.finish is not None:
                        record.completion_tokens = (record.completion_tokens or 0) + event.finish.completion_tokens
                        record.steered_tokens = (record.steered_tokens or 0) + event.finish.receipt.steered_tokens
                    yield event
        finally:
            reservation.settle(used)

    return counted()
