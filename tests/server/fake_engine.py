"""An engine without a model: it echoes the prompt, and does to a request what its seed is told to do.

It stands behind the same seam (`add`, `abort`, `step`), so faults of an engine can be had at will, at step k.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from steering.engine.config import EngineConfig
from steering.engine.detokenizer import Detokenizer
from steering.engine.engine import Speed
from steering.engine.kv_size import KvSize
from steering.engine.prefix_cache import CacheStats
from steering.engine.request import Finish, FinishReason, Reading, Receipt, Request, Token, TokenEvent
from steering.errors import InvalidRequest, NumericalError, QueueFull, SteeringError
from steering.model.loading import LanguageModel

DEATH_SEED = 666
"""The step that runs a request with this seed raises: the engine thread dies."""


@dataclass
class FakeEngine:
    """Every step gives every running request one token: the prompt's plain tokens, round and round."""

    model: LanguageModel
    config: EngineConfig = field(default_factory=EngineConfig)
    error_at: dict[int, int] = field(default_factory=dict)
    """Seed -> index of the token at which its logits are not finite."""
    delay: float = 0.0
    """Seconds a step takes."""
    gate: threading.Event | None = None
    """Each step waits for it."""
    running: dict[tuple[str, int], _Row] = field(default_factory=dict)
    aborted: list[str] = field(default_factory=list)
    steps: int = 0
    num_preemptions: int = 0
    num_steps: tuple[int, int] = (0, 0)
    kv_bytes: int = 0
    prefix_cache: CacheStats = field(default_factory=CacheStats)

    @property
    def context(self) -> int:
        return min(self.config.context or 4096, self.model.layout.context)

    @property
    def kv(self) -> KvSize:
        return KvSize(self.config.max_rows, self.context, bytes_per_token=1, deterministic=False, budget=2**20)

    @property
    def kv_wanted(self) -> KvSize:
        return self.kv

    @property
    def speed(self) -> Speed:
        return Speed(0, 0, rounded=False, compiled=False, num_threads=1)

    @property
    def has_work(self) -> bool:
        return bool(self.running)

    @property
    def num_running(self) -> int:
        return len(self.running)

    @property
    def num_waiting(self) -> int:
        return 0

    @property
    def free_rows(self) -> int:
        return self.config.max_rows - self.num_running

    def add(self, request: Request) -> None:
        if len(self.running) >= self.config.max_rows + self.config.queue:
            raise QueueFull("no place left in the fake engine.")
        if (request.id, 0) in self.running:
            raise InvalidRequest("request id is in use.", param="id")
        self.running |= {(request.id, choice.index): _Row(self.model, choice) for choice in request.choices}

    def abort(self, request_id: str) -> None:
        if request_id in {row.request.id for row in self.running.values()}:
            self.aborted.append(request_id)

    def close(self) -> None:
        """Nothing to take off."""

    def step(self) -> list[TokenEvent]:
        if self.gate is not None:
            self.gate.wait(10)
        time.sleep(self.delay)
        self.steps += 1
        if any(row.request.sampling.seed == DEATH_SEED for row in self.running.values()):
            raise MemoryError("the fake engine dies")
        events = [self._step(row) for row in self.running.values()]
        ended = {(event.request_id, event.index) for event in events if event.finish}
        self.running = {key: row for key, row in self.running.items() if key not in ended}
        return events

    def _step(self, row: _Row) -> TokenEvent:
        if row.request.id in self.aborted:
            return row.finish("abort")
        if len(row.tokens) == self.error_at.get(row.request.sampling.seed):
            return row.finish("error", NumericalError("the logits became NaN or infinite."))
        return row.advance()


class _Row:
    def __init__(self, model: LanguageModel, request: Request) -> None:
        self.request = request
        self.echo = [i for i in request.prompt_ids if i not in model.tokenizer.all_special_ids] or [100]
        self.detokenizer = Detokenizer(model.tokenizer, request.sampling.stop, at_start=not request.continues)
        self.tokens: list[Token] = []
        self.told = False

    def advance(self) -> TokenEvent:
        sampling = self.request.sampling
        if sampling.max_tokens == 0:
            return self.finish("length")
        token = self._token()
        if len(self.tokens) == len(self.echo) and sampling.seed != 0:  # seed 0 never ends by itself
            return self.finish("stop", text=self.detokenizer.flush())
        self.tokens.append(token)
        text, stopped = self.detokenizer.push(token.id)
        if stopped:
            return self.finish("stop", text=text, token=token)
        if len(self.tokens) == sampling.max_tokens:
            return self.finish("length", text=text + self.detokenizer.flush(), token=token)
        return self._event(text, token)

    def _event(self, text: str, token: Token | None, end: Finish | None = None) -> TokenEvent:
        scored, self.told = () if self.told else self._scored_prompt(), True
        return TokenEvent(self.request.id, text, token, end, self.request.index, scored)

    def _scored_prompt(self) -> tuple[Token, ...]:
        """Of every token but the first the log-probability is minus its place."""
        count = self.request.sampling.prompt_logprobs
        if count is None:
            return ()
        first, *others = self.request.prompt_ids
        tops = (tuple((token_id + 1 + k, -50.0 - k) for k in range(count)) for token_id in others)
        scored = (
            Token(token_id, -float(i), top) for i, (token_id, top) in enumerate(zip(others, tops, strict=True), 1)
        )
        return (Token(first), *scored)

    def _token(self) -> Token:
        index, sampling, plan = len(self.tokens), self.request.sampling, self.request.plan
        token_id = self.echo[index % len(self.echo)]
        top = tuple((token_id + i, -0.5 - i) for i in range(sampling.logprobs or 0))
        reading = None
        if plan.measures:
            reading = Reading(
                drift=0.25 + 0.5 * (index == 1), early=((65, -0.1),), late=((66, -0.2),), fired=index == 1
            )
        return Token(
            id=token_id,
            logprob=(float("-inf") if index == 2 else -0.5) if sampling.logprobs is not None else None,
            top_logprobs=top,
            steered=plan.acts and index == 1,
            reading=reading,
        )

    def finish(
        self, reason: FinishReason, error: SteeringError | None = None, *, text: str = "", token: Token | None = None
    ) -> TokenEvent:
        steered = sum(t.steered for t in self.tokens)
        fired = any(t.reading and t.reading.fired for t in self.tokens)
        receipt = Receipt(
            applied=steered > 0,
            tokens=len(self.tokens),
            steered_tokens=steered,
            fired_tokens=int(fired),
            at=1 if fired else None,
            max_drift=0.75 if fired else None,
            early_token=65 if fired else None,
            late_token=66 if fired else None,
        )
        end = Finish(reason, len(self.request.prompt_ids), len(self.tokens), receipt, error)
        return self._event(text, token, end)
