"""What goes into the engine and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from steering.engine.constraint import Constraint
from steering.engine.lens_query import Grid, LensQuery
from steering.engine.spans import SpanReader
from steering.errors import InvalidRequest, SteeringError, ValueOutOfRange
from steering.plan import Plan

FinishReason = Literal["stop", "length", "abort", "error"]

MAX_TOP_LOGPROBS = 20
MAX_BIASED = 300
MAX_STOP_IDS = 64
MAX_CHOICES = 16


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. Impossible values raise `ValueOutOfRange`; ids are checked by whoever knows the model.

    Order: penalties and bias (`steering.engine.penalties`), constraint, temperature, top-k, top-p, min-p.
    """

    max_tokens: int
    """Most tokens to generate, >= 1; 0 only with `prompt_logprobs`: the prompt is scored and nothing generated."""
    temperature: float = 1.0
    """0 is greedy; at most 2. Values below 1e-5 count as 0."""
    top_k: int = 0
    """Keep the k most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set whose probability reaches p, in (0, 1]."""
    min_p: float = 0.0
    """Drop tokens below min_p times the most probable one, in [0, 1]."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token generated before, -2 to 2."""
    frequency_penalty: float = 0.0
    """The same, once for each time it was generated, -2 to 2."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in the prompt or generated before, 0.1 to 2."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, -100 to 100) added to its logit; at most 300, each id once."""
    seed: int = 0
    """0 to 2**64 - 1. Token i of a request is drawn with a random number that depends on (seed, i) alone."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer; never part of it. At most 4, of 1 to 256 characters."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer besides the model's own; never part of it. At most 64."""
    ignore_eos: bool = False
    """The model's own end tokens do not end the answer."""
    logprobs: int | None = None
    """None: no log-probabilities; n: of the drawn token and the n most probable ones, 0 to 20."""
    prompt_logprobs: int | None = None
    """The same of the prompt's tokens."""
    forced: tuple[int, ...] = ()
    """What the answer begins with, whatever would have been drawn: a given answer is so measured under a plan."""
    distributions: bool = False
    """Every token carries the whole distribution that `logprob` is one number of."""
    constraint: Constraint | None = None
    """What the answer must be; it ends where that is complete. None: any text."""

    def __post_init__(self) -> None:
        def check(name: str, ok: bool, allowed: str) -> None:
            if not ok:
                raise ValueOutOfRange(f"{name} must be {allowed} (got {getattr(self, name)!r}).", param=name)

        def between(name: str, low: float, high: float) -> None:
            check(name, low <= getattr(self, name) <= high, f"between {low} and {high}")  # false for NaN

        check("max_tokens", self.max_tokens >= (self.prompt_logprobs is None), "at least 1")
        between("temperature", 0, 2)
        check("top_k", 0 <= self.top_k < 2**31, "between 0 (off) and 2147483647")
        check("top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        between("min_p", 0, 1)
        between("presence_penalty", -2, 2)
        between("frequency_penalty", -2, 2)
        between("repetition_penalty", 0.1, 2)
        between("seed", 0, 2**64 - 1)
        check(
            "stop",
            len(self.stop) <= 4 and all(1 <= len(s) <= 256 for s in self.stop),
            "up to 4 strings of 1 to 256 characters",
        )
        check("forced", len(self.forced) <= self.max_tokens, "no longer than max_tokens")
        check("stop_token_ids", len(self.stop_token_ids) <= MAX_STOP_IDS, f"at most {MAX_STOP_IDS} ids")
        self._check_bias()
        self._check_constraint()
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                between(name, 0, MAX_TOP_LOGPROBS)

    def _check_bias(self) -> None:
        """Its values may be many, and are not repeated."""
        ids, values = {i for i, _ in self.logit_bias}, [value for _, value in self.logit_bias]
        if len(ids) < len(values) or len(values) > MAX_BIASED or not all(-100 <= value <= 100 for value in values):
            allowed = f"at most {MAX_BIASED} different token ids with values between -100 and 100"
            raise ValueOutOfRange(f"logit_bias must be {allowed}.", param="logit_bias")

    def _check_constraint(self) -> None:
        """What would cut an answer or put another in its place leaves nothing that the constraint could hold for."""
        for name in ("forced", "stop_token_ids"):
            if self.constraint is not None and getattr(self, name):
                raise InvalidRequest(f"{name} cannot be combined with a constrained answer.", param=name)

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5 or self.top_k == 1

    @property
    def scores(self) -> bool:
        """Whether log-probabilities of drawn tokens are asked for."""
        return self.logprobs is not None or self.distributions

    @property
    def truncates(self) -> bool:
        """Whether some tokens are ruled out by their probability."""
        return bool(self.top_k) or self.top_p < 1.0 or self.min_p > 0.0

    @property
    def penalises(self) -> bool:
        """Whether penalties or a bias change the logits a token is drawn from."""
        counted = self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
        return counted or self.repetition_penalty != 1.0 or bool(self.logit_bias)


@dataclass(frozen=True)
class Request:
    """One prompt and the answers to generate to it.

    Several answers are one request, which the engine splits into one sequence each, and not several requests: so they
    are accepted or refused together, one abort ends them all, and the engine, which alone knows what its slots hold,
    computes their common prompt once. What a sequence carries is a request for one answer.
    """

    id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    plan: Plan = field(default_factory=Plan)
    n: int = 1
    """Answers, 1 to 16. Answer i is that of a request of its own with seed + i (modulo 2**64)."""
    compare: bool = False
    """Two answers with the same random numbers: 0 under the plan, 1 as the model is. n must be 1."""
    continues: bool = False
    """The prompt ends within a text, which the answer goes on: a space it begins with is part of it."""
    shown: frozenset[int] = frozenset()
    """Control tokens that are part of the text: those that mark calls of tools, say."""
    index: int = 0
    """Which answer of its request it is. Set by `choices`."""
    priority: int = 0
    """Lower goes sooner."""
    key: str = ""
    """Whose request it is: among those of one priority, keys take turns by how many tokens each was served."""
    spans: SpanReader | None = field(default=None, compare=False)
    """Where the answer begins, for a plan that exempts spans; None: where the prompt alone says so."""
    lens: LensQuery | None = None
    """What layers say at the prompt's positions; only with one answer and `prompt_logprobs`."""

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MAX_CHOICES:
            raise ValueOutOfRange(f"n must be between 1 and {MAX_CHOICES} (got {self.n}).", param="n")
        if self.compare and self.n != 1:
            raise InvalidRequest(f"n must be 1 where steered and plain are compared (got {self.n}).", param="n")
        if self.lens and (self.n != 1 or self.compare or self.sampling.prompt_logprobs is None):
            raise InvalidRequest("layers are read of a prompt that is scored, with one answer.", param="lens")

    @property
    def choices(self) -> tuple[Request, ...]:
        """The same, one request for each answer."""
        if self.compare:
            return (
                replace(self, compare=False),
                replace(self, compare=False, plan=self.plan.beside, index=1),
            )
        return tuple(
            replace(self, n=1, sampling=replace(self.sampling, seed=(self.sampling.seed + i) % 2**64), index=i)
            for i in range(self.n)
        )

    @property
    def shares_prompt(self) -> bool:
        """Whether all its answers have the same keys and values at the prompt's positions but the last."""
        return not (self.compare and self.plan.steers_prompt)


@dataclass(frozen=True)
class Reading:
    """What the lens saw at one sampled position, before any correction that the gate opened."""

    drift: float
    """Jensen-Shannon divergence of early and late on the candidates, bits."""
    early: tuple[tuple[int, float], ...]
    """What the early layer says, most probable first: (token id, log-probability). Where the gate opened, of the whole
    vocabulary (unless tokens are traced, only where it first opened); elsewhere among the candidates, the
    log-probability conditioned on them."""
    late: tuple[tuple[int, float], ...]
    """Most probable candidates of the late distribution: (token id, log-probability on the candidate set)."""
    fired: bool = False
    """The drift gate opened here."""
    late_steered: bool = False
    """The late distribution was already steered (gate `always` or an open latch)."""
    base_logprob: float | None = None
    """Log-probability of the drawn token before correction; None where no uncorrected pass was run."""


@dataclass(frozen=True)
class Token:
    """One token, generated or (with its log-probabilities alone) of the prompt."""

    id: int
    logprob: float | None = None
    """After steering, before penalties, bias, temperature and truncation; None unless asked for."""
    top_logprobs: tuple[tuple[int, float], ...] = ()
    distribution: Tensor | None = field(default=None, compare=False)
    """[V] log-probabilities on the CPU; None unless asked for."""
    steered: bool = False
    """A correction acted on the position that produced this token."""
    exempt: bool = False
    """Its position lies in a span that the plan exempts: nothing acted there, and nothing was read."""
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
    retries: int = 0
    """Positions that were run once more because it did."""
    at: int | None = None
    """Index of the first token at which the gate opened."""
    max_drift: float | None = None
    early_token: int | None = None
    """What the early layer said where the gate first opened, else its top candidate where drift was largest."""
    late_token: int | None = None
    exempt_tokens: int = 0
    """Tokens whose position lies in a span that the plan exempts."""


@dataclass(frozen=True)
class Finish:
    """The end of one answer."""

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
    """Set on the last event of the answer and only there."""
    index: int = 0
    """Which answer of the request."""
    prompt: tuple[Token, ...] = ()
    """On the first event of an answer whose request asked for them: the prompt's tokens with their log-probabilities,
    the first without."""
    lens: Grid = ()
    """On the last event of an answer whose request asked for it and that ended well: what layers say, by position."""


@dataclass(frozen=True)
class Completion:
    """A finished answer, gathered from its events."""

    request_id: str
    text: str
    tokens: tuple[Token, ...]
    finish: Finish
    index: int = 0
    prompt: tuple[Token, ...] = ()
    lens: Grid = ()
