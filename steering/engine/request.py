"""What goes into the engine and what comes out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from steering.errors import SteeringError, ValueOutOfRange
from steering.plan import Plan

FinishReason = Literal["stop", "length", "abort", "error"]

MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. Impossible values raise `ValueOutOfRange`."""

    max_tokens: int
    """Most tokens to generate, >= 1."""
    temperature: float = 1.0
    """0 is greedy; at most 2. Values below 1e-5 count as 0."""
    top_k: int = 0
    """Keep the k most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set whose probability reaches p, in (0, 1]."""
    min_p: float = 0.0
    """Drop tokens below min_p times the most probable one, in [0, 1]."""
    seed: int = 0
    """0 to 2**64 - 1. Token i of a request is drawn with a random number that depends on (seed, i) alone."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer; never part of it. At most 4, of 1 to 256 characters."""
    logprobs: int | None = None
    """None: no log-probabilities; n: of the drawn token and the n most probable ones, 0 to 20."""

    def __post_init__(self) -> None:
        def check(name: str, ok: bool, allowed: str) -> None:
            if not ok:
                raise ValueOutOfRange(f"{name} must be {allowed} (got {getattr(self, name)!r}).", param=name)

        check("max_tokens", self.max_tokens >= 1, "at least 1")
        check("temperature", math.isfinite(self.temperature) and 0 <= self.temperature <= 2, "between 0 and 2")
        check("top_k", 0 <= self.top_k < 2**31, "between 0 (off) and 2147483647")
        check("top_p", math.isfinite(self.top_p) and 0 < self.top_p <= 1, "above 0 and at most 1")
        check("min_p", math.isfinite(self.min_p) and 0 <= self.min_p <= 1, "between 0 and 1")
        check("seed", 0 <= self.seed < 2**64, "between 0 and 18446744073709551615")
        check(
            "stop",
            len(self.stop) <= 4 and all(1 <= len(s) <= 256 for s in self.stop),
            "up to 4 strings of 1 to 256 characters",
        )
        check(
            "logprobs",
            self.logprobs is None or 0 <= self.logprobs <= MAX_TOP_LOGPROBS,
            f"between 0 and {MAX_TOP_LOGPROBS}",
        )

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5 or self.top_k == 1


@dataclass(frozen=True)
class Request:
    """One answer to generate."""

    id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    plan: Plan = field(default_factory=Plan)


@dataclass(frozen=True)
class Reading:
    """What the lens saw at one sampled position, before any correction that the gate opened."""

    drift: float
    """Jensen-Shannon divergence of early and late on the candidates, bits."""
    early: tuple[tuple[int, float], ...]
    """Most probable candidates of the early read-out: (token id, log-probability on the candidate set)."""
    late: tuple[tuple[int, float], ...]
    """The same of the late distribution."""
    fired: bool = False
    """The drift gate opened here."""
    late_steered: bool = False
    """The late distribution was already steered (gate `always` or an open latch)."""
    base_logprob: float | None = None
    """Log-probability of the drawn token before correction; None where no uncorrected pass was run."""


@dataclass(frozen=True)
class Token:
    """One generated token."""

    id: int
    logprob: float | None = None
    """After steering, before temperature and truncation; None unless asked for."""
    top_logprobs: tuple[tuple[int, float], ...] = ()
    steered: bool = False
    """A correction acted on the position that produced this token."""
    reading: Reading | None = None
    """Of every token for a plan that traces tokens; for others where the gate fired or drift rose to a new high."""


@dataclass(frozen=True)
class Receipt:
    """What steering did to one answer: what fired, where, how hard."""

    applied: bool
    """A correction acted on at least one position."""
    tokens: int
    """Tokens generated."""
    steered_tokens: int
    """Tokens whose position a correction acted on."""
    fired_tokens: int
    """Tokens at which the drift gate opened."""
    at: int | None = None
    """Index of the first token at which the gate opened."""
    max_drift: float | None = None
    early_token: int | None = None
    """Early top candidate where the gate first opened, else where drift was largest."""
    late_token: int | None = None


@dataclass(frozen=True)
class Finish:
    """The one terminal event of a request."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    receipt: Receipt
    error: SteeringError | None = None
    """Set iff reason is `error`."""


@dataclass(frozen=True)
class TokenEvent:
    """What one step adds to one answer."""

    request_id: str
    text: str = ""
    """New text: whole characters only; may be empty while a character or a possible stop string is held back."""
    token: Token | None = None
    finish: Finish | None = None
    """Set on the last event of the request and only there."""


@dataclass(frozen=True)
class Completion:
    """A finished answer, gathered from its events."""

    request_id: str
    text: str
    tokens: tuple[Token, ...]
    finish: Finish
