"""What the routes of steering take and tell: written by generate.py from openapi.json, not by hand."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict


class CalledFunction(TypedDict):
    arguments: str
    """
    JSON of an object.
    """
    name: str


class CustomCorrection(TypedDict):
    """
    Units of one site, whose activations are multiplied while they are computed.
    """

    groups: NotRequired[list[int] | None]
    """
    At `attn_z`: KV groups, each with all its query heads.
    """
    neurons: NotRequired[list[int] | None]
    """
    At `mlp_act`: neurons.
    """
    scale: float
    """
    What they are multiplied by: 0 silences them, 1 leaves them alone.
    """
    site: str
    """
    `attn_z.12`, the heads of a block, or `mlp_act.9`, its neurons.
    """


class Defaults(TypedDict):
    """
    What a request gets that says nothing.
    """

    mode: Literal["on", "observe", "compare", "off"]
    profile: NotRequired[str]


class ErrorBody(TypedDict):
    code: str
    message: str
    param: str | None
    type: str


class ErrorReply(TypedDict):
    error: ErrorBody


class EvaluateJob(TypedDict):
    """
    `unsway eval` in the background, on the files of the server's `--benchmarks`.
    """

    deterministic: NotRequired[bool]
    """
    Same numbers to the last bit, also after an interruption; slower.
    """
    fail_over: NotRequired[list[str]]
    """
    The same if it is higher.
    """
    fail_under: NotRequired[list[str]]
    """
    METRIC=VALUE: the exit code is 1 if it is lower, steered or else off.
    """
    kind: Literal["evaluate"]
    limit: NotRequired[int | None]
    """
    Questions of a suite; all if not given.
    """
    profiles: NotRequired[list[str]]
    """
    To measure beside off.
    """
    seed: NotRequired[int]
    """
    Of what is drawn: questions, orders of options, claims.
    """
    suites: list[str]
    """
    Suites or groups of them, of those that need no judge and run no code.
    """
    system: NotRequired[str]
    """
    System prompt of the baseline; empty for none.
    """


class JobDeleted(TypedDict):
    deleted: Literal[True]
    id: str
    object: Literal["steering.job.deleted"]


class JobProgress(TypedDict):
    """
    How far the current stage is.
    """

    done: int
    eta_s: NotRequired[float]
    message: str
    stage: str
    total: int
    unit: str


class JobQuestion(TypedDict):
    """
    One question with right and wrong answers, as in a file of `unsway calibrate --questions`.
    """

    correct: str | list[str]
    """
    The preferred one first, then other wordings that count as right.
    """
    id: NotRequired[str | None]
    incorrect: NotRequired[str | list[str] | None]
    """
    May be left out where there are `options`.
    """
    options: NotRequired[list[str] | None]
    question: str
    split: NotRequired[Literal["fit", "dev", "test_a", "test_b"] | None]


class JobSummary(TypedDict):
    attempts: NotRequired[int]
    created: NotRequired[int]
    ended: NotRequired[int]
    exit_code: NotRequired[int]
    id: str
    kind: NotRequired[str]
    object: Literal["steering.job"]
    parameters: NotRequired[dict[str, Any]]
    progress: NotRequired[JobProgress]
    reason: NotRequired[str]
    started: NotRequired[int]
    state: Literal["queued", "running", "interrupted", "cancelling", "completed", "failed", "cancelled", "corrupt"]


class LensCandidate(TypedDict):
    """
    A candidate, and the token that stands for it.
    """

    id: int
    num_tokens: int
    text: str
    token: str


class LensCell(TypedDict):
    """
    What one layer says at one position comes next, over the whole vocabulary.
    """

    candidates: NotRequired[list[float]]
    entropy: float
    kl: float
    top: list[list[Any]]


class LensLayer(TypedDict):
    """
    How one column of the grid was read.
    """

    layer: int
    lens: Literal["logit", "tuned", "output"]


class LensPosition(TypedDict):
    """
    One token of the prompt, and what every layer says follows it.
    """

    id: int
    layers: list[LensCell]
    position: int
    token: str


class LensReply(TypedDict):
    """
    The grid: positions by layers, the output last.
    """

    candidates: NotRequired[list[LensCandidate]]
    layers: list[LensLayer]
    model: str
    object: Literal["steering.lens"]
    positions: list[LensPosition]
    profile: NotRequired[str]
    prompt_tokens: int
    system_fingerprint: str


class Limits(TypedDict):
    """
    Most of each that one request may have.
    """

    answers: int
    body_bytes: int
    correction_units: int
    corrections: int
    lens_candidates: int
    lens_cells: int
    logit_bias: int
    messages: int
    n: int
    prompts: int
    stop: int
    stop_characters: int
    stop_token_ids: int
    top_logprobs: int
    trace_bytes: int
    upload_bytes: int


class Profile(TypedDict):
    """
    One pack as the server knows it.
    """

    broken: NotRequired[str]
    description: NotRequired[str]
    digest: NotRequired[str]
    max_strength: NotRequired[float]
    name: str
    observe_only: NotRequired[bool]
    uploaded: NotRequired[bool]


class ProfileCorrection(TypedDict):
    """
    One correction, without its tensors.
    """

    edit: str
    gate: str
    name: str
    phases: str
    site: str
    strength: float
    units: NotRequired[list[str]]


class ProfileDetector(TypedDict):
    """
    The lens that reads the early answer, and when a gate opens.
    """

    layer: int
    lens: Literal["LogitLens", "TunedLens"]
    num_candidates: int
    threshold: float


class ProfileList(TypedDict):
    data: list[Profile]
    object: Literal["list"]


class Receipt(TypedDict):
    """
    What steering did to one answer: what fired, where, how hard, or, as `skipped`, why not.

    `early_token` is what the early layer said where the gate first opened, `late_token` what the output did; where none
    opened, the most probable candidate of each where drift was largest.
    """

    applied: bool
    at: NotRequired[int]
    clamped: NotRequired[str]
    early_token: NotRequired[str]
    exempt: NotRequired[list[Literal["code", "tool_calls", "reasoning"]]]
    exempt_tokens: NotRequired[int]
    fired_tokens: int
    gate: NotRequired[Literal["always", "drift"]]
    late_token: NotRequired[str]
    max_drift: NotRequired[float]
    mode: Literal["on", "observe", "off"]
    prefill_shared: NotRequired[bool]
    profile: str
    skipped: NotRequired[str]
    strength: float
    tokens: int
    truncated: NotRequired[Literal[True]]


class Served(TypedDict):
    """
    The model as it runs.
    """

    d_mlp: int
    d_model: int
    device: str
    dtype: str
    fingerprint: str
    name: str
    num_groups: int
    num_heads: int
    num_layers: int
    quantized: NotRequired[str]
    vocab_size: int


class Setting(TypedDict):
    """
    One setting as the server was told it; null where nothing was said and the server decides.
    """

    source: NotRequired[Literal["flag", "environment", "file", "default"]]
    value: str | int | float | bool | None


class Sizes(TypedDict):
    """
    What the engine has room for. `wanted` differs from `rows` and `context` where a budget cut them.
    """

    context: int
    context_wanted: int
    deterministic: bool
    kv_budget_bytes: int
    kv_bytes_per_token: int
    prefill_tokens: int
    queue: int
    rows: int
    rows_wanted: int


class Speed(TypedDict):
    """
    What the start found to be faster.
    """

    compiled: bool
    packed_bytes: int
    packed_linears: int
    rounded: bool
    threads: int


class SteeringOptions(TypedDict):
    """
    Full control of one request's steering. What is absent or null is decided by the next lower source.
    """

    corrections: NotRequired[list[CustomCorrection] | None]
    """
    Corrections of this request's own, after those of the profile that it names; alone (profile `custom`) where it
    names none. They act always, unless `gate` says drift, and in the completion, unless `phases` says more.
    """
    exempt: NotRequired[list[Literal["code", "tool_calls", "reasoning"]] | None]
    """
    Spans of the answer in which nothing acts: fenced code, and tool calls and reasoning as the model's template
    marks them. The receipt repeats it and counts the tokens.
    """
    gate: NotRequired[Literal["profile", "always", "drift"] | None]
    """
    When corrections apply: as the profile says, always, or on drift alone.
    """
    mode: NotRequired[Literal["on", "observe", "compare", "off"] | None]
    """
    `on` applies it, `observe` measures and applies nothing, `compare` returns two choices with the same random
    numbers, index 0 steered and index 1 not (n must be 1; measured where tokens are traced), `off` runs the plain
    model.
    """
    phases: NotRequired[list[Literal["prompt", "completion"]] | None]
    """
    Positions where corrections apply, instead of the profile's.
    """
    profile: NotRequired[str | None]
    """
    Which pack: `name` or `name@digest`.
    """
    strength: NotRequired[float | None]
    """
    Multiplies the calibrated dose; 0 is bit-identical to off, the profile's max_strength is the most.
    """
    threshold: NotRequired[float | None]
    """
    Drift above which the gate opens, Jensen-Shannon in bits, instead of the profile's.
    """
    trace: NotRequired[Literal["off", "summary", "tokens"] | None]
    """
    What the reply tells about itself; `tokens` annotates every token and turns `logprobs` on.
    """


class TextPart(TypedDict):
    text: str
    type: Literal["text"]


class TokenTrace(TypedDict):
    """
    What the lens saw where one token was sampled, most probable first. Pairs are (text, log-probability).

    `late` is among the candidates, the tokens most probable in the end. So is `early`, but where the gate opened: there
    it is of the whole vocabulary, since what the early layer says may be none of them.
    """

    base_logprob: NotRequired[float]
    drift: NotRequired[float]
    early: NotRequired[list[list[Any]]]
    exempt: NotRequired[Literal[True]]
    fired: bool
    late: NotRequired[list[list[Any]] | Literal["steered"]]
    steered: bool


class ToolCall(TypedDict):
    """
    A call of an earlier turn.
    """

    function: CalledFunction
    id: str
    type: Literal["function"]


class TracedToken(TypedDict):
    """
    One token of an answer, and what the lens saw where it was sampled, if there was a lens.
    """

    steering: NotRequired[TokenTrace]
    token: str


class VerifiedCandidate(TypedDict):
    """
    One candidate in the answer's place: its log-probability under the early layer and under the output, from the
    first token on in which the candidates differ.
    """

    early_logprob: float
    late_logprob: float
    text: str
    tokens: list[str]


class VerifyReply(TypedDict):
    """
    The verdict, and all that it was decided on.
    """

    answer: str
    answer_tokens: int
    at: NotRequired[int]
    calibrated_tokens: NotRequired[int]
    candidates: NotRequired[list[VerifiedCandidate]]
    drift: NotRequired[float]
    early: NotRequired[str]
    false_alarms: NotRequired[float]
    gap: NotRequired[float]
    layer: int
    lens: Literal["logit", "tuned"]
    margin: float
    model: str
    object: Literal["steering.verification"]
    profile: str
    reason: NotRequired[str]
    said: NotRequired[str]
    system_fingerprint: str
    threshold: float
    verdict: Literal["consistent", "drifted", "undecided"]


class CalibrateJob(TypedDict):
    """
    `unsway calibrate` in the background.
    """

    kind: Literal["calibrate"]
    profile: str
    """
    What to call the profile it makes; others that prove themselves become `NAME-neurons` and `NAME-pinned`.
    """
    questions: NotRequired[list[JobQuestion] | None]
    """
    To calibrate on; the bundled model brings its own.
    """
    quick: NotRequired[bool]
    """
    Tune no weights, and draw half as many random sets of units.
    """
    replace: NotRequired[bool]
    """
    Whether an uploaded profile of that name, of the same caller, gives way to it.
    """
    seed: NotRequired[int]
    """
    Of everything that is drawn.
    """
    test: NotRequired[Literal["test_a", "test_b"] | None]
    """
    Test questions to look at in the end: what does not hold there, does not ship.
    """


class Config(TypedDict):
    """
    `GET /v1/steering/config`. No key is in it.
    """

    engine: Sizes
    limits: Limits
    model: Served
    object: Literal["steering.config"]
    requires_key: bool
    settings: dict[str, Setting]
    speed: Speed
    steering: Defaults


class Job(TypedDict):
    """
    One job. What is not known yet is absent.
    """

    attempts: NotRequired[int]
    created: NotRequired[int]
    ended: NotRequired[int]
    exit_code: NotRequired[int]
    id: str
    kind: NotRequired[str]
    log: list[str]
    object: Literal["steering.job"]
    parameters: NotRequired[dict[str, Any]]
    progress: NotRequired[JobProgress]
    reason: NotRequired[str]
    result: NotRequired[Any]
    started: NotRequired[int]
    state: Literal["queued", "running", "interrupted", "cancelling", "completed", "failed", "cancelled", "corrupt"]


class JobList(TypedDict):
    data: list[JobSummary]
    object: Literal["list"]


JobRequest: TypeAlias = CalibrateJob | EvaluateJob


class Message(TypedDict):
    """
    One turn. What the official clients send back of an earlier reply (`refusal`, ...) is taken if it is empty.
    """

    content: NotRequired[str | list[TextPart] | None]
    """
    Only the assistant's may have none, where it has calls.
    """
    name: NotRequired[str | None]
    """
    Ignored: chat templates have no place for it.
    """
    reasoning_content: NotRequired[str | None]
    """
    The assistant's, as replies have it; templates keep it or leave it out.
    """
    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_call_id: NotRequired[str | None]
    """
    Of a `tool` message: which call it answers, one of an assistant's message before it.
    """
    tool_calls: NotRequired[list[ToolCall] | None]
    """
    The assistant's: what it asked to call.
    """


class ProfileDetails(TypedDict):
    """
    One pack with its evidence. Of a broken one there is the name and the reason alone.
    """

    broken: NotRequired[str]
    corrections: NotRequired[list[ProfileCorrection]]
    created: NotRequired[dict[str, str]]
    description: NotRequired[str]
    detector: NotRequired[ProfileDetector]
    digest: NotRequired[str]
    evidence: NotRequired[dict[str, Any]]
    fingerprint: NotRequired[str]
    max_strength: NotRequired[float]
    model: NotRequired[str]
    name: str
    observe_only: NotRequired[bool]
    uploaded: NotRequired[bool]


class TracedChoice(TypedDict):
    """
    One answer: its receipt and, for requests with `trace: tokens`, its tokens.
    """

    finish_reason: Literal["stop", "length"]
    index: int
    steering: Receipt
    tokens: NotRequired[list[TracedToken]]
    truncated: NotRequired[Literal[True]]


class VerifyRequest(TypedDict):
    """
    `POST /v1/steering/verify`. null means absent.
    """

    answer: NotRequired[str | None]
    """
    What was answered, whoever said it; if absent, the plain model answers, greedily.
    """
    candidates: NotRequired[list[str] | None]
    """
    Answers that could stand in the place of one another. The one that the answer stands by is compared with the
    others there.
    """
    max_tokens: NotRequired[int | None]
    """
    Of an answer that is generated; 256 if not given.
    """
    messages: list[Message]
    """
    The conversation up to where the answer begins; where the last message is the assistant's, the answer goes on
    from it.
    """
    model: NotRequired[str | None]
    """
    The served model's id; it need not be named.
    """
    profile: NotRequired[str | None]
    """
    Whose lens reads the early answer, and by whose threshold it is judged; the server's default if absent.
    """


class LensRequest(TypedDict):
    """
    `POST /v1/steering/lens`. Either `messages` or `text`; null means absent.
    """

    candidates: NotRequired[list[str] | None]
    """
    What may follow the prompt: log-probabilities of the first token of each. The reply says which token that is.
    """
    layers: NotRequired[list[int] | None]
    """
    Hidden states: 0 the embeddings, i what block i receives; all if not given. The output is always read.
    """
    messages: NotRequired[list[Message] | None]
    """
    A conversation, up to where the answer begins; where the last message is the assistant's, to its end.
    """
    model: NotRequired[str | None]
    """
    The served model's id; it need not be named.
    """
    positions: NotRequired[int | None]
    """
    The last so many of the prompt; all if not given.
    """
    profile: NotRequired[str | None]
    """
    Whose lens reads the layer that it is made for; all others are read by the logit lens. Nothing is steered.
    """
    text: NotRequired[str | None]
    """
    A plain text, encoded as the model's tokenizer encodes it by default.
    """
    top_logprobs: NotRequired[int | None]
    """
    Most probable tokens of each layer at each position; 5 if not given.
    """


class Trace(TypedDict):
    """
    Receipts and traces of one finished request. Nothing of its prompt is kept.
    """

    choices: list[TracedChoice]
    created: int
    id: str
    model: str
    object: Literal["steering.trace"]
    system_fingerprint: str
