"""What a call uses: taken from its key's account, and noted for the log."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.types import Scope

from server.async_engine import Events
from server.limits import account_in
from server.request_record import record_of
from server.translate.call import Call
from steering.engine.request import TokenEvent


def accounted(events: Events, call: Call, scope: Scope) -> Events:
    """The same events. As many tokens as they may come to are taken now, or `rate_limit_exceeded` is raised; what was
    not used is given back at the end, however that comes."""
    reservation, record = account_in(scope).reserve(call.most_tokens), record_of(scope)
    record.model, record.profile = call.model, call.headers["x-steering-profile"]
    record.prompt_tokens = sum(len(request.prompt_ids) for request in call.requests)
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
