"""Engine: continuous batching of steered and unsteered requests on a stock Hugging Face model.

Single-threaded: only the thread that owns an engine may call it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass, field

import torch

from steering.engine.admission import check_request
from steering.engine.decision import Decision, decide, token_of
from steering.engine.detokenizer import Detokenizer
from steering.engine.request import Completion, FinishReason, Request, Token, TokenEvent
from steering.engine.runner import Runner
from steering.engine.scheduler import Batch, Chunk, Scheduler
from steering.engine.sequence import Retry, Sequence
from steering.engine.table import is_steered, needs_retry
from steering.errors import EngineFailure, InvalidRequest, NumericalError, SteeringError
from steering.model.loading import LanguageModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineConfig:
    """Sizes fixed at start."""

    max_rows: int = 16
    """Requests that decode at the same time; each owns a KV slot of `context` positions."""
    context: int | None = None
    """Positions of a slot; None: the model's own, at most 4096."""
    prefill_tokens: int = 512
    """Prompt tokens per step, over all requests; bounds how long running answers wait for a new prompt."""
    queue: int = 256
    """Requests that may wait for a row; one more is refused."""
    deterministic: bool = False
    """Fixed shapes: a row's bits do not depend on what else is in the batch. Slower."""

    def __post_init__(self) -> None:
        for name in ("max_rows", "prefill_tokens", "queue"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.context is not None and self.context < 2:
            raise ValueError(f"context must be at least 2, got {self.context}")


@dataclass
class _Answer:
    """Events of one request, gathered."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)


class Engine:
    """add, abort, step: that is the whole seam between a server and whatever generates."""

    def __init__(self, model: LanguageModel, config: EngineConfig | None = None) -> None:
        config = config or EngineConfig()
        self.model, self.config = model, config
        self.context = min(config.context or 4096, model.layout.context)
        self._runner = Runner(model, max_rows=config.max_rows, context=self.context, deterministic=config.deterministic)
        self._scheduler = Scheduler(
            max_rows=config.max_rows,
            prefill_tokens=config.prefill_tokens,
            queue=config.queue,
            deterministic=config.deterministic,
            move=self._runner.kv.move,
        )
        self._sequences: dict[str, Sequence] = {}
        self._events: list[TokenEvent] = []

    @property
    def num_running(self) -> int:
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        return len(self._scheduler.waiting)

    @property
    def free_rows(self) -> int:
        return self.config.max_rows - self.num_running

    @property
    def has_work(self) -> bool:
        return bool(self._sequences or self._events)

    @property
    def kv_bytes(self) -> int:
        return self._runner.kv.nbytes

    def close(self) -> None:
        """Takes the hooks off the model."""
        self._runner.close()

    def add(self, request: Request) -> None:
        """Accepts a request, or raises `QueueFull`, `ContextLengthExceeded` or another `InvalidRequest`."""
        self._check(request)
        sequence = Sequence(request, Detokenizer(self.model.tokenizer, request.sampling.stop))
        self._scheduler.add(sequence)
        self._sequences[request.id] = sequence

    def abort(self, request_id: str) -> None:
        """Ends a request at once; its terminal event comes with the next `step`. Unknown ids are finished ones."""
        if sequence := self._sequences.get(request_id):
            self._events.append(self._finish(sequence, "abort"))
            self._release(sequence)

    def step(self) -> list[TokenEvent]:
        """Runs one forward. Every request ends in exactly one event with `finish` set."""
        batch = self._scheduler.schedule()
        try:
            self._events += self._run(batch) if batch else []
        except Exception as error:  # whatever a forward raises is the fate of its rows, not of the server
            log.exception("a step failed; its %d requests are ended", len(batch.sequences))
            self._events += self._fail(batch.sequences, EngineFailure(f"the step failed: {type(error).__name__}"))
        events, self._events = self._events, []
        return events

    @torch.inference_mode()
    def _run(self, batch: Batch) -> list[TokenEvent]:
        forward = self._runner.forward(batch)
        decisions = decide(batch.rows, forward, self.model.layout.unembed)
        results = [
            *(self._commit(s, decision) for s, decision in zip(batch.rows, decisions, strict=True)),
            *(self._advance(chunk, finite) for chunk, finite in zip(batch.chunks, forward.finite_chunks, strict=True)),
        ]
        events = [event for event in results if event is not None]
        # Only now do rows move: a slot's length is right once its sequence has committed.
        for event in events:
            if event.finish:
                self._release(self._sequences[event.request_id])
        return events

    def _advance(self, chunk: Chunk, finite: bool) -> TokenEvent | None:
        sequence = chunk.sequence
        if not finite:
            return self._finish_broken(sequence)
        sequence.advance_prefill(chunk.length, steered=is_steered(sequence.request.plan, "prompt", "shut"))
        return None

    def _commit(self, sequence: Sequence, decision: Decision) -> TokenEvent | None:
        """Takes the drawn token into its sequence, or marks the position for its retry: then nothing is emitted."""
        plan, sampling = sequence.request.plan, sequence.request.sampling
        if decision.token_id is None:
            return self._finish_broken(sequence)
        if decision.reading and decision.reading.fired and needs_retry(plan, sequence.openness):
            sequence.retry(Retry(decision.reading, decision.base_logprobs))
            return None
        token = token_of(sequence, decision, decision.token_id)
        is_stop = token.id in self.model.stop_ids
        sequence.commit(token, is_stop=is_stop)
        if is_stop:
            return self._finish(sequence, "stop", text=sequence.detokenizer.flush())
        text, stopped = sequence.detokenizer.push(token.id)
        if stopped:
            return self._finish(sequence, "stop", text=text, token=token)
        if sequence.num_generated == sampling.max_tokens:
            return self._finish(sequence, "length", text=text + sequence.detokenizer.flush(), token=token)
        return TokenEvent(sequence.request.id, text, token)

    def _finish_broken(self, sequence: Sequence) -> TokenEvent:
        """Ends a row with NaN or infinity in it; its slot is wiped at once, before anything can move."""
        self._runner.kv.clear(sequence.slot)
        return self._finish(sequence, "error", NumericalError("the numbers became NaN or infinite."))

    def _finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        error: SteeringError | None = None,
        *,
        text: str = "",
        token: Token | None = None,
    ) -> TokenEvent:
        """The one terminal event; whoever asks for it releases the sequence."""
        return TokenEvent(sequence.request.id, text, token, sequence.finish(reason, error))

    def _release(self, sequence: Sequence) -> None:
        """Frees the row and forgets the request."""
        self._scheduler.remove(sequence)
        del self._sequences[sequence.request.id]

    def _fail(self, sequences: Iterable[Sequence], error: SteeringError) -> list[TokenEvent]:
        """Ends what a broken step leaves running; its slots are wiped, since nobody knows what was written."""
        alive = [s for s in sequences if s.request.id in self._sequences]
        for sequence in alive:  # all of them before any moves
            self._runner.kv.clear(sequence.slot)
        events = []
        for sequence in alive:
            events.append(self._finish(sequence, "error", error))
            self._release(sequence)
        return events

    def generate(self, requests: Several[Request]) -> list[Completion]:
        """Runs requests to their ends, in this thread, and returns them in order. For offline use.

        Accepts all or none of them, with the errors of `add`.
        """
        for request in requests:
            self._check(request)
        if len({request.id for request in requests}) < len(requests):
            raise InvalidRequest("request ids must differ.", param="id")
        answers = {request.id: _Answer() for request in requests}
        done: dict[str, Completion] = {}
        todo = list(reversed(requests))
        while len(done) < len(requests):
            while todo and self.num_waiting < self.config.queue:
                self.add(todo.pop())
            for event in self.step():
                answer = answers[event.request_id]
                answer.text += event.text
                answer.tokens += [event.token] if event.token else []
                if event.finish:
                    done[event.request_id] = Completion(
                        event.request_id, answer.text, tuple(answer.tokens), event.finish
                    )
        return [done[request.id] for request in requests]

    def _check(self, request: Request) -> None:
        if request.id in self._sequences:
            raise InvalidRequest(f"request id {request.id!r} is in use.", param="id")
        check_request(request, self.model, self.context)
