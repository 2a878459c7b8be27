"""One request's life: the one mutable object."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import get_args

from torch import Tensor

from steering.engine.detokenizer import Detokenizer
from steering.engine.lens_query import Grid, LayerReading, LensQuery
from steering.engine.request import Finish, FinishReason, Reading, Receipt, Request, Token
from steering.errors import SteeringError
from steering.gate import Openness, Phase


class Status(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, eq=False)
class Retry:
    """What the uncorrected pass of a fired position leaves for the corrected one."""

    reading: Reading
    base_logprobs: Tensor | None
    """[V] log-probabilities before correction; None unless the request traces tokens."""


class Sequence:
    """A request under way. The scheduler moves it between states and slots; `Engine` alone commits tokens to it."""

    def __init__(self, request: Request, detokenizer: Detokenizer, *, replays: bool = False) -> None:
        """replays: what it generated before it was preempted is computed again token by token, as it was."""
        self.request = request
        self.detokenizer = detokenizer
        self._replays = replays
        self.status = Status.WAITING
        self.arrival = 0
        """Place in the order in which requests came."""
        self.pool = self.slot = -1
        """Where its keys and values are while RUNNING: length class and slot."""
        self.num_preempted = self.num_shed = 0
        """How often it lost its slot to others; how often of that because a step ran out of memory."""
        self.token_ids = list(request.prompt_ids)
        self.block_hashes: tuple[bytes, ...] = ()
        """Of the first blocks of `token_ids`, as far as the prefix cache asked for them."""
        self._opennesses: list[tuple[Openness, int]] = []
        """How drift gates stood at the positions that were sampled: runs, each with the position it ends before."""
        self.num_computed = 0
        """Positions whose keys and values are in the slot."""
        self.prompt_tokens: tuple[Token, ...] = (
            () if request.sampling.prompt_logprobs is None else (Token(request.prompt_ids[0]),)
        )
        """The prompt so far with its log-probabilities, if the request asks for them; nothing predicts the first."""
        self.lens_readings: dict[int, tuple[LayerReading, ...]] = {}
        """What layers say at the prompt's positions so far, if the request asks for it."""
        self.retrying: Retry | None = None
        """Set while a fired position waits to be run again with its corrections open."""
        self.latched = False
        """A gate fired before: those that latch are open."""
        constraint = request.sampling.constraint
        self.guide = None if constraint is None else constraint.start()
        """Where the answer stands in its constraint: moved by committed tokens alone, so a retry does not move it."""
        self._applied = self._prompt_told = False
        self._steered_tokens = self._fired_tokens = self._retries = 0
        self._first_fired: int | None = None
        self._decisive: Reading | None = None
        self.max_drift = -1.0
        """Largest drift read so far, bits; negative before the first reading."""

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def prompt_key(self) -> tuple[str, str]:
        """Sequences of one key have the same keys and values at the prompt's positions but the last."""
        plan = self.request.plan
        return self.request.id, plan.digest if plan.steers_prompt else ""

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def has_prompt(self) -> bool:
        """Whether the slot holds the prompt but its last position."""
        return self.num_computed >= self.num_prompt - 1

    @property
    def num_like_prompt(self) -> int:
        """Positions whose keys and values depend on nothing but the token ids and `prompt_key`'s digest."""
        return len(self.token_ids) if self._steered_alike and not self._replays else self.num_prompt - 1

    @property
    def _steered_alike(self) -> bool:
        """Whether the plan does at sampled positions what it does in the prompt."""
        plan = self.request.plan
        return not plan.steered_at or all(
            correction.gate.passes("prompt", "shut") == correction.gate.passes("completion", openness)
            for correction in plan.state_corrections
            for openness in get_args(Openness)
        )

    @property
    def num_to_prefill(self) -> int:
        """Positions still to compute before the next decode step. The last prompt token is no part of them: it is the
        first decode step. After a preemption what was generated is, unless it is replayed."""
        end = self.num_prompt if self._replays else len(self.token_ids)
        return max(0, end - 1 - self.num_computed)

    @property
    def lens_query(self) -> LensQuery | None:
        """What is to be read of layers at the positions about to run."""
        query = self.request.lens
        return query if query and query.first <= self.num_computed < self.num_prompt else None

    @property
    def lens_grid(self) -> Grid:
        return tuple(readings for _, readings in sorted(self.lens_readings.items()))

    @property
    def prefill_cost(self) -> int:
        """Prompt tokens that the next position counts as: a read-out of a layer costs about what a position does."""
        query = self.lens_query
        return 1 if query is None else len(query.lenses) + 1

    def next_chunk(self, budget: int) -> int:
        """How many positions to prefill for so many prompt tokens. One position at least, or nothing would ever come
        of it; none before and after `LensQuery.first` together."""
        query, left = self.request.lens, self.num_to_prefill
        if query is not None and self.num_computed < query.first:
            left = min(left, query.first - self.num_computed)
        return min(max(1, budget // self.prefill_cost), left)

    @property
    def is_replaying(self) -> bool:
        """Whether the position about to run was sampled before: its token is known and told."""
        return self.num_computed < len(self.token_ids) - 1

    @property
    def has_fired(self) -> bool:
        """At an earlier position, or at this one if it is being retried: the reading that a receipt shows is known."""
        return self._first_fired is not None

    @property
    def openness(self) -> Openness:
        """How drift gates stand at the position about to run."""
        if self.is_replaying:
            return self._openness_at(self.num_computed)
        if self.retrying is not None:
            return "open"
        return "latched" if self.latched else "shut"

    def _openness_at(self, position: int) -> Openness:
        return next((openness for openness, end in self._opennesses if position < end), "shut")

    def runs(self, start: int, end: int) -> list[tuple[Phase, Openness, int, int]]:
        """Positions start .. end - 1 of a chunk, parted by phase and by how drift gates stood there."""
        first = self.num_prompt - 1
        parts: list[tuple[Phase, Openness, int, int]] = [("prompt", "shut", start, min(end, first))]
        for openness, until in self._opennesses:
            parts.append(("completion", openness, max(start, first), min(end, until)))
            first = until
        return [part for part in parts if part[2] < part[3]]

    @property
    def next_token_id(self) -> int:
        """Input of the next decode step."""
        return self.token_ids[self.num_computed]

    @property
    def forced_token_id(self) -> int | None:
        """What comes next whatever is drawn."""
        forced = self.request.sampling.forced
        return forced[self.num_generated] if self.num_generated < len(forced) else None

    @property
    def uniform(self) -> float:
        """The random number of the token about to be drawn: of (seed, index) alone, so a retry draws the same."""
        return random.Random(f"{self.request.sampling.seed}:{self.num_generated}").random()

    def advance_prefill(self, length: int, tokens: tuple[Token, ...] = ()) -> None:
        """`length` more positions are computed; `tokens`: those they predict, if they are scored."""
        known = self.prompt_tokens[: self.num_computed + 1]  # more where the sequence was preempted
        self.prompt_tokens = (*known, *tokens, *self.prompt_tokens[len(known) + len(tokens) :])[: self.num_prompt]
        self.num_computed += length
        self._applied |= length > 0 and self.request.plan.steers_prompt

    def share_prompt(self, donor: Sequence) -> None:
        """The slot holds the prompt of `donor`, which has the same `prompt_key` and is beyond its prompt."""
        self.num_computed = 0
        self.advance_prefill(self.num_prompt - 1, donor.prompt_tokens[1:])

    def tell_prompt(self) -> tuple[Token, ...]:
        """The scored prompt, once."""
        told, self._prompt_told = self._prompt_told, True
        return () if told else self.prompt_tokens

    def advance_replay(self) -> None:
        """The position about to run is computed as it was before the sequence was preempted."""
        self.num_computed += 1

    def preempt(self) -> None:
        """Back to the waiting ones: keys and values are lost and will be computed again, all else stays."""
        self.status, self.num_computed = Status.WAITING, 0
        self.num_preempted += 1

    def retry(self, retry: Retry) -> None:
        """The gate opened: do not commit, run the same position once more."""
        self._note(retry.reading)
        self.retrying = retry
        self._fired_tokens += 1
        self._retries += 1
        self.latched = self.request.plan.latches

    def commit(self, token: Token, *, is_stop: bool) -> None:
        """Ends the position about to run: its keys and values stay, and the drawn token (unless it is a stop id, which
        belongs to no answer) is the next input."""
        openness = self.openness
        if token.reading is not None and self.retrying is None:
            self._note(token.reading)
            self._fired_tokens += token.reading.fired
            self.latched |= token.reading.fired and self.request.plan.latches
        self._steered_tokens += token.steered and not is_stop
        self._applied |= token.steered
        self._record(openness)
        self.num_computed += 1
        self.retrying = None
        if not is_stop:
            self.token_ids.append(token.id)
            if self.guide is not None:
                self.guide.advance(token.id)

    def _record(self, openness: Openness) -> None:
        if self._opennesses and self._opennesses[-1][0] == openness:
            self._opennesses.pop()
        self._opennesses.append((openness, self.num_computed + 1))

    def _note(self, reading: Reading) -> None:
        """Keeps the reading a receipt shows: the first that fired, else the one with the largest drift."""
        if self._first_fired is None:
            if reading.fired:
                self._first_fired = self.num_generated
            if reading.fired or self._decisive is None or reading.drift > self.max_drift:
                self._decisive = reading
        self.max_drift = max(self.max_drift, reading.drift)

    def finish(self, reason: FinishReason, error: SteeringError | None = None) -> Finish:
        return Finish(
            reason=reason,
            prompt_tokens=self.num_prompt,
            completion_tokens=self.num_generated,
            receipt=self._receipt(),
            error=error,
        )

    def _receipt(self) -> Receipt:
        decisive = self._decisive
        return Receipt(
            applied=self._applied,
            tokens=self.num_generated,
            steered_tokens=self._steered_tokens,
            fired_tokens=self._fired_tokens,
            retries=self._retries,
            at=self._first_fired,
            max_drift=None if decisive is None else self.max_drift,
            early_token=None if decisive is None else decisive.early[0][0],
            late_token=None if decisive is None else decisive.late[0][0],
        )
