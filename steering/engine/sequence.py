"""One request's life: the one mutable object."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from steering.engine.detokenizer import Detokenizer
from steering.engine.request import Finish, FinishReason, Reading, Receipt, Request, Token
from steering.errors import SteeringError
from steering.gate import Openness


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

    def __init__(self, request: Request, detokenizer: Detokenizer) -> None:
        self.request = request
        self.detokenizer = detokenizer
        self.status = Status.WAITING
        self.slot = -1
        """KV slot and batch row while RUNNING."""
        self.token_ids = list(request.prompt_ids)
        self.num_computed = 0
        """Positions whose keys and values are in the slot."""
        self.prompt_tokens: tuple[Token, ...] = (
            () if request.sampling.prompt_logprobs is None else (Token(request.prompt_ids[0]),)
        )
        """The prompt so far with its log-probabilities, if the request asks for them; nothing predicts the first."""
        self.retrying: Retry | None = None
        """Set while a fired position waits to be run again with its corrections open."""
        self.latched = False
        """A gate fired before: those that latch are open."""
        self._applied = self._prompt_told = False
        self._steered_tokens = self._fired_tokens = 0
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
    def num_to_prefill(self) -> int:
        """Prompt positions still to compute. The last prompt token is no part of it: it is the first decode step."""
        return max(0, self.num_prompt - 1 - self.num_computed)

    @property
    def has_fired(self) -> bool:
        """At an earlier position, or at this one if it is being retried: the reading that a receipt shows is known."""
        return self._first_fired is not None

    @property
    def openness(self) -> Openness:
        """How drift gates stand at the position about to run."""
        if self.retrying is not None:
            return "open"
        return "latched" if self.latched else "shut"

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
        """`length` more prompt positions are computed; `tokens`: those they predict, if they are scored."""
        self.num_computed += length
        self.prompt_tokens += tokens
        self._applied |= length > 0 and self.request.plan.steers_prompt

    def share_prompt(self, donor: Sequence) -> None:
        """The slot holds the prompt of `donor`, which has the same `prompt_key` and is beyond its prompt."""
        self.advance_prefill(self.num_prompt - 1, donor.prompt_tokens[1:])

    def tell_prompt(self) -> tuple[Token, ...]:
        """The scored prompt, once."""
        told, self._prompt_told = self._prompt_told, True
        return () if told else self.prompt_tokens

    def lose_slot(self) -> None:
        """The slot was wiped: nothing in it can be used by anybody."""
        self.num_computed = 0

    def retry(self, retry: Retry) -> None:
        """The gate opened: do not commit, run the same position once more."""
        self._note(retry.reading)
        self.retrying = retry
        self._fired_tokens += 1
        self.latched = self.request.plan.latches

    def commit(self, token: Token, *, is_stop: bool) -> None:
        """Ends the position about to run: its keys and values stay, and the drawn token (unless it is a stop id, which
        belongs to no answer) is the next input."""
        if token.reading is not None and self.retrying is None:
            self._note(token.reading)
            self._fired_tokens += token.reading.fired
            self.latched |= token.reading.fired and self.request.plan.latches
        self._steered_tokens += token.steered and not is_stop
        self._applied |= token.steered
        self.num_computed += 1
        self.retrying = None
        if not is_stop:
            self.token_ids.append(token.id)

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
            at=self._first_fired,
            max_drift=None if decisive is None else self.max_drift,
            early_token=None if decisive is None else decisive.early[0][0],
            late_token=None if decisive is None else decisive.late[0][0],
        )
