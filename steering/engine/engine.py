"""Engine: continuous batching of steered and unsteered requests on a stock Hugging Face model.

Single-threaded: only the thread that owns an engine may call it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import NamedTuple

import torch

from steering.engine.admission import check_request
from steering.engine.config import LEAST_CONTEXT, EngineConfig, make_kv_memory, wanted_kv_size
from steering.engine.decision import Decision, decide, token_of
from steering.engine.detokenizer import Detokenizer
from steering.engine.kv_size import fit
from steering.engine.lens_grid import Readings, read_prompts
from steering.engine.memory import is_out_of_memory
from steering.engine.prefix_cache import CacheStats
from steering.engine.request import Completion, Finish, FinishReason, Request, Token, TokenEvent
from steering.engine.runner import Runner
from steering.engine.scheduler import Batch, Chunk, Scheduler
from steering.engine.scoring import score
from steering.engine.sequence import Retry, Sequence, Status
from steering.engine.spans import SpanReader
from steering.engine.table import needs_retry
from steering.errors import EngineFailure, InvalidRequest, NumericalError, OverMemoryBudget, SteeringError
from steering.model.loading import LanguageModel

log = logging.getLogger(__name__)

MAX_SHED = 8
"""How often a sequence starts again after a step ran out of memory."""


class Speed(NamedTuple):
    """What was found to be faster at the start."""

    num_packed: int
    """Linears that are held a second time."""
    packed_bytes: int
    """Of these copies."""
    rounded: bool
    """Whether any of them has fewer bits than the weight."""
    compiled: bool
    num_threads: int
    """Of the CPU."""


class _Computed(NamedTuple):
    """What a step came to, before anything of it is committed."""

    decisions: list[Decision]
    """One per row."""
    scores: list[tuple[Token, ...] | None]
    """Per chunk the tokens that it predicts, if they are asked for; None if it is not finite."""
    readings: dict[Sequence, Readings]
    """What layers say, where that is asked for."""


@dataclass
class _Answer:
    """Events of one answer, gathered."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    prompt: tuple[Token, ...] = ()
    done: Completion | None = None

    def take(self, event: TokenEvent) -> None:
        self.text += event.text
        self.tokens += [event.token] if event.token else []
        self.prompt = self.prompt or event.prompt
        if event.finish:
            self.done = Completion(
                event.request_id, self.text, tuple(self.tokens), event.finish, event.index, self.prompt, event.lens
            )


class Engine:
    """add, abort, step: that is the whole seam between a server and whatever generates."""

    def __init__(self, model: LanguageModel, config: EngineConfig | None = None) -> None:
        config = config or EngineConfig()
        self.kv_wanted = wanted = wanted_kv_size(model, config)
        least = wanted.context if config.context else LEAST_CONTEXT  # what is asked for is not shortened
        self.kv = fit(wanted, least_context=least)
        self.model, self.config = model, replace(config, max_rows=self.kv.rows, context=self.kv.context)
        self._memory = make_kv_memory(model, self.kv, config)
        self._runner = Runner(
            model,
            self._memory,
            packs=config.fast_linears,
            rounded=config.rounded_linears,
            compiles=config.compile,
        )
        self._scheduler = Scheduler(
            self._memory,
            max_rows=self.kv.rows,
            prefill_tokens=config.prefill_tokens,
            queue=config.queue,
            deterministic=config.deterministic,
            prefill_stretch=config.prefill_stretch,
        )
        self._under_way: dict[str, list[Sequence]] = {}
        """Request id -> its answers that have not ended."""
        self._events: list[TokenEvent] = []
        self.prompt_tokens_computed = 0
        """So far, over all requests; less than their prompts together where answers shared one. The last token of a
        prompt counts as the first decode step."""

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
    def kv_bytes(self) -> int:
        """What keys and values take now, the prefix cache included."""
        return self._memory.nbytes

    @property
    def prefix_cache(self) -> CacheStats:
        return self._memory.cache.stats

    @property
    def num_preemptions(self) -> int:
        """So far: how often a running sequence lost its memory to others and had to start again."""
        return self._scheduler.num_preemptions

    @property
    def num_steps(self) -> tuple[int, int]:
        """So far: steps run, and rows in them together; the mean batch is the second over the first."""
        return self._scheduler.num_steps, self._scheduler.num_step_rows

    @property
    def has_work(self) -> bool:
        return bool(self._under_way or self._events)

    @property
    def context(self) -> int:
        """Most positions of a prompt and its answer together."""
        return self.kv.context

    @property
    def speed(self) -> Speed:
        packing = self._runner.packing
        rounded = any(linear.packed.dtype != linear.weight.dtype for linear in packing.linears)
        compiled = self._runner.compiled is not None
        return Speed(len(packing.linears), packing.nbytes, rounded, compiled, torch.get_num_threads())

    def clear_prefix_cache(self) -> None:
        """Forgets the beginnings computed before: what comes next does not depend on them."""
        self._memory.cache.clear()

    def close(self) -> None:
        """Takes the hooks off the model."""
        self._runner.close()

    def add(self, request: Request) -> None:
        """Accepts a request, or raises `QueueFull`, `ContextLengthExceeded` or another `InvalidRequest`."""
        self._check(request)
        spans = self._spans(request)
        sequences = [self._sequence(choice, spans) for choice in request.choices]
        self._scheduler.add(*sequences)
        self._under_way[request.id] = sequences

    def _spans(self, request: Request) -> SpanReader | None:
        """Where all its answers begin. Long prompts take a while: whoever serves others reads them elsewhere."""
        if not request.plan.exempt:
            return None
        return request.spans or SpanReader(self.model.tokenizer, request.prompt_ids)

    def _sequence(self, choice: Request, spans: SpanReader | None) -> Sequence:
        tokenizer = self.model.tokenizer
        return Sequence(
            choice,
            Detokenizer(tokenizer, choice.sampling.stop, at_start=not choice.continues, shown=choice.shown),
            spans=spans.copy() if spans is not None and choice.plan.exempt else None,
            replays=self.config.deterministic,
        )

    @torch.inference_mode()
    def abort(self, request_id: str) -> None:
        """Ends a request at once; its terminal events come with the next `step`. Unknown ids are finished ones."""
        for sequence in list(self._under_way.get(request_id, ())):
            self._events.append(self._finish(sequence, "abort"))
            self._release(sequence)

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """Runs one forward. Every answer ends in exactly one event with `finish` set."""
        batch = self._scheduler.schedule()
        try:
            self._events += self._run(batch) if batch else self._give_up()
        except OverMemoryBudget as error:
            self._events += self._shed(batch, error)
        except Exception as error:  # whatever a forward raises is the fate of its rows, not of the server
            log.exception("a step failed; its %d answers are ended", len(batch.sequences))
            self._events += self._fail(
                batch.sequences, EngineFailure(f"the step failed ({type(error).__name__}); the log says more.")
            )
        events, self._events = self._events, []
        return events

    def _run(self, batch: Batch) -> list[TokenEvent]:
        start = perf_counter()
        computed = self._compute(batch)
        for sequence, readings in computed.readings.items():
            sequence.lens_readings |= readings
        results = [
            *(self._commit(s, decision) for s, decision in zip(batch.rows, computed.decisions, strict=True)),
            *(self._advance(chunk, scored) for chunk, scored in zip(batch.chunks, computed.scores, strict=True)),
        ]
        for sequence, event in zip(batch.sequences, results, strict=True):
            if event and event.finish:
                self._release(sequence)
        self._scheduler.observe(batch, perf_counter() - start)
        return [event for event in results if event]

    def _compute(self, batch: Batch) -> _Computed:
        """All that takes memory, before anything is committed. Raises `OverMemoryBudget` where there is none left."""
        unembed = self.model.layout.unembed
        try:
            forward = self._runner.forward(batch)
            readings = read_prompts(batch, forward, unembed)  # of the logits before they are corrected
            decisions = decide(batch.rows, forward, unembed)
            chunks = zip(batch.chunks, forward.chunks, strict=True)
            scores = [None if hidden is None else score(chunk, hidden, unembed) for chunk, hidden in chunks]
            return _Computed(decisions, scores, readings)
        except Exception as error:
            if is_out_of_memory(error):
                raise OverMemoryBudget("memory ran out in a step that this answer had to itself.") from error
            raise

    def _advance(self, chunk: Chunk, scored: tuple[Token, ...] | None) -> TokenEvent | None:
        """scored: the tokens that the chunk predicts, if they are asked for; None if it is not finite."""
        if scored is None:
            return self._finish_broken(chunk.sequence)
        chunk.sequence.advance_prefill(chunk.length, scored)
        self._memory.remember(chunk.sequence)
        self.prompt_tokens_computed += chunk.length
        return None

    def _commit(self, sequence: Sequence, decision: Decision) -> TokenEvent | None:
        """Takes the drawn token into its sequence, or marks the position for its retry: then nothing is emitted."""
        plan, sampling = sequence.request.plan, sequence.request.sampling
        if decision.token_id is None:
            return self._finish_broken(sequence)
        if sequence.is_replaying:
            sequence.advance_replay()
            return None
        if sampling.max_tokens == 0:
            return self._finish(sequence, "length")
        if sequence.guide is not None and sequence.guide.failed:
            return self._finish(sequence, "error", EngineFailure("the schema is too complex to go on with the answer."))
        if decision.reading and decision.reading.fired and needs_retry(plan, sequence.openness):
            sequence.retry(Retry(decision.reading, decision.base_logprobs))
            return None
        token = token_of(sequence, decision, decision.token_id)
        is_stop = token.id in sampling.stop_token_ids or (token.id in self.model.stop_ids and not sampling.ignore_eos)
        sequence.commit(token, is_stop=is_stop)
        if is_stop:
            return self._finish(sequence, "stop", text=sequence.detokenizer.flush())
        text, stopped = sequence.detokenizer.push(token.id)
        if stopped:
            return self._finish(sequence, "stop", text=text, token=token)
        if sequence.guide is not None and sequence.guide.complete:
            return self._finish(sequence, "stop", text=text + sequence.detokenizer.flush(), token=token)
        if sequence.num_generated == sampling.max_tokens:
            return self._finish(sequence, "length", text=text + sequence.detokenizer.flush(), token=token)
        return _event(sequence, text, token)

    def _finish_broken(self, sequence: Sequence) -> TokenEvent:
        """Ends a row with NaN or infinity in it; its slot is wiped at once, before anything can move."""
        self._memory.wipe(sequence)
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
        return _event(sequence, text, token, sequence.finish(reason, error))

    def _release(self, sequence: Sequence) -> None:
        """Frees the row, and with the last answer forgets the request."""
        if sequence.status is Status.RUNNING:
            self._memory.remember(sequence)
        self._scheduler.remove(sequence)
        siblings = self._under_way[sequence.request.id]
        siblings.remove(sequence)
        if not siblings:
            del self._under_way[sequence.request.id]

    def _fail(self, sequences: Iterable[Sequence], error: SteeringError) -> list[TokenEvent]:
        """Ends what a broken step leaves running; its slots are wiped, since nobody knows what was written."""
        alive = [s for s in sequences if s.status is not Status.FINISHED]
        for sequence in alive:  # all of them before any moves
            if sequence.status is Status.RUNNING:
                self._memory.wipe(sequence)
        events = []
        for sequence in alive:
            events.append(self._finish(sequence, "error", error))
            self._release(sequence)
        return events

    def _shed(self, batch: Batch, error: OverMemoryBudget) -> list[TokenEvent]:
        """Memory ran out before anything was committed: what can be computed again goes, the rest runs on."""
        log.warning("memory ran out in a step of %d answers", len(batch.sequences))
        self._memory.cache.clear()
        if len(batch.sequences) == 1:
            return self._fail(batch.sequences, error)
        self._scheduler.shed(batch.sequences)
        return self._fail((s for s in batch.sequences if s.num_shed > MAX_SHED), error)

    def _give_up(self) -> list[TokenEvent]:
        """Nothing can run: if anything waits, the machine has less memory than the budget says."""
        first = self._scheduler.next_waiting
        return self._fail([first], OverMemoryBudget("there is no memory to start this answer.")) if first else []

    def generate(self, requests: Several[Request]) -> list[Completion]:
        """Runs requests to their ends, in this thread, and returns their answers in order. For offline use.

        Accepts all or none of them, with the errors of `add`.
        """
        for request in requests:
            self._check(request)
        if len({request.id for request in requests}) < len(requests):
            raise InvalidRequest("request ids must differ.", param="id")
        answers = {(request.id, choice.index): _Answer() for request in requests for choice in request.choices}
        todo = list(reversed(requests))
        while any(answer.done is None for answer in answers.values()):
            while todo and self.num_waiting < self.config.queue:
                self.add(todo.pop())
            for event in self.step():
                answers[event.request_id, event.index].take(event)
        return [answer.done for answer in answers.values() if answer.done]

    def _check(self, request: Request) -> None:
        if request.id in self._under_way:
            raise InvalidRequest(f"request id {request.id!r} is in use.", param="id")
        if len(request.prompt_ids) + request.sampling.max_tokens <= self.kv_wanted.context:
            self.kv.check(len(request.prompt_ids) + request.sampling.max_tokens)
        check_request(request, self.model, self.context)


def _event(sequence: Sequence, text: str, token: Token | None, finish: Finish | None = None) -> TokenEvent:
    request = sequence.request
    lens = sequence.lens_grid if finish and finish.reason in ("stop", "length") else ()
    return TokenEvent(request.id, text, token, finish, request.index, sequence.tell_prompt(), lens)
