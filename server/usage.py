"""What a request uses, in however many of the engine: taken from its key's account, in the metrics, in the log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager

from starlette.types import Scope

from server.async_engine import AsyncEngine, Events
from server.errors import ApiError
from server.limits import account_in
from server.metrics import Metrics
from server.request_record import RequestRecord, record_of
from steering.engine.request import Request, TokenEvent
from steering.errors import QueueFull

Submit = Callable[[Sequence[Request]], Events]


def most_tokens(requests: Sequence[Request]) -> int:
    """That requests may come to: their prompts and the longest answers."""
    answers = sum(choice.sampling.max_tokens for request in requests for choice in request.choices)
    return sum(len(request.prompt_ids) for request in requests) + answers


@contextmanager
def used(
    scope: Scope, engine: AsyncEngine, most: int, *, model: str, profile: str | None, stream: bool = False
) -> Iterator[Submit]:
    """All that the engine does for one request of the wire is submitted by what this gives. As many tokens as it may
    come to, `most`, are taken now, or `rate_limit_exceeded` is raised; at the end, however that comes, what was not
    used is given back, and what was used beyond is owed."""
    record, metrics = record_of(scope), _metrics(scope)
    record.model, record.profile = model, profile
    reservation, tally = account_in(scope).reserve(most), _Tally(record, metrics)
    record.prompt_tokens = record.completion_tokens = record.steered_tokens = 0
    try:
        with metrics.measured(scope["path"], stream=stream) as measured:
            yield lambda requests: measured(tally.counted(engine.submit(requests), requests), requests)
    finally:
        reservation.settle(tally.tokens)


def _metrics(scope: Scope) -> Metrics:
    metrics: Metrics = scope["app"].state.metrics
    return metrics


class _Tally:
    def __init__(self, record: RequestRecord, metrics: Metrics) -> None:
        self._record, self._metrics, self.tokens = record, metrics, 0

    async def counted(self, events: Events, requests: Sequence[Request]) -> AsyncGenerator[TokenEvent, None]:
        """The same events. A prompt counts, whatever comes of it, unless it was turned away."""
        record, prompts = self._record, sum(len(request.prompt_ids) for request in requests)
        profiled = {request.id for request in requests if request.plan.profile}  # others are the server's own
        record.prompt_tokens = (record.prompt_tokens or 0) + prompts
        try:
            async with aclosing(events):
                async for event in events:
                    if event.token is not None:
                        self.tokens += 1
                        record.first_token = record.first_token or record.elapsed
                    if event.finish is not None:
                        record.completion_tokens = (record.completion_tokens or 0) + event.finish.completion_tokens
                        steered = event.finish.receipt.steered_tokens * (event.request_id in profiled)
                        record.steered_tokens = (record.steered_tokens or 0) + steered
                    yield event
        except (QueueFull, ApiError):  # no place, or no engine
            prompts = 0
            raise
        finally:
            self.tokens += prompts
            self._metrics.prompt_tokens.inc(prompts)
