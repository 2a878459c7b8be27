"""What `/v1/steering/jobs` takes and tells."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, Tag
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.jobs.job import State
from server.schemas.steering import ProfileReference
from server.schemas.strict import Strict, by_json_type
from steering.commands.evaluate import SYSTEM
from steering.evaluation.suites import GROUPS, SUITES
from steering.pack import RESERVED_NAMES, check_pack_name

MAX_QUESTIONS = 10_000
MAX_SEED = 2**31 - 1
_SERVED = frozenset(name for name, suite in SUITES.items() if not suite.needs_judge and name != "humaneval")
_NAMED = sorted({*_SERVED, *(name for name, members in GROUPS.items() if {*members} <= _SERVED)})
"""Suites and groups that need no judge and run no code."""
PARTS = ("neurons", "pinned")
"""What a calibration may make beside the profile itself, `NAME-neurons` for instance."""

Text = Annotated[str, Field(min_length=1, max_length=4096)]
Answers = Annotated[
    Annotated[Text, Tag("form:text")] | Annotated[list[Text], Field(min_length=1, max_length=64), Tag("form:list")],
    by_json_type({str: "form:text", list: "form:list"}, "a string or an array of strings"),
]
Goals = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=128, json_schema_extra={"pattern": "^[^=]+=[^=]+$"})]],
    Field(max_length=32),
]


def _name(name: str) -> str:
    try:
        for part in ("", *(f"-{part}" for part in PARTS)):
            check_pack_name(f"{name}{part}")
    except ValueError:
        allowed = "1 to 56 of a-z, 0-9, '.', '_' and '-', the first a letter or digit, and no reserved word"
        raise PydanticCustomError("invalid_name", f"must be {allowed}") from None
    return name


def _suite(name: str) -> str:
    if name not in SUITES and name not in GROUPS:
        raise PydanticCustomError("invalid_value", f"must be one of {', '.join((*SUITES, *GROUPS))}")
    return name


def _prompt(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("invalid_value", "must not have the character U+0000")
    return text


class JobQuestion(Strict):
    """One question with right and wrong answers, as in a file of `unsway calibrate --questions`."""

    question: Text
    correct: Answers
    """The preferred one first, then other wordings that count as right."""
    incorrect: Answers | None = None
    """May be left out where there are `options`."""
    options: list[Text] | None = Field(default=None, min_length=2, max_length=26)
    id: Text | None = None
    split: Literal["fit", "dev", "test_a", "test_b"] | None = None


class AnyJob(Strict):
    """What all kinds share."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["calibrate", "evaluate"]


class CalibrateJob(Strict):
    """`unsway calibrate` in the background."""

    kind: Literal["calibrate"]
    profile: Annotated[
        str,
        Field(json_schema_extra={"pattern": "^[a-z0-9][a-z0-9._-]{0,55}$", "not": {"enum": sorted(RESERVED_NAMES)}}),
        AfterValidator(_name),
    ]
    """What to call the profile it makes; others that prove themselves become `NAME-neurons` and `NAME-pinned`."""
    questions: list[JobQuestion] | None = Field(default=None, min_length=1, max_length=MAX_QUESTIONS)
    """To calibrate on; the bundled model brings its own."""
    quick: bool = False
    """Tune no weights, and draw half as many random sets of units."""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """Of everything that is drawn."""
    replace: bool = False
    """Whether an uploaded profile of that name, of the same caller, gives way to it."""
    test: Literal["test_a", "test_b"] | None = None
    """Test questions to look at in the end: what does not hold there, does not ship."""


class EvaluateJob(Strict):
    """`unsway eval` in the background, on the files of the server's `--benchmarks`."""

    kind: Literal["evaluate"]
    suites: list[Annotated[str, Field(json_schema_extra={"enum": _NAMED}), AfterValidator(_suite)]] = Field(
        min_length=1, max_length=32
    )
    """Suites or groups of them, of those that need no judge and run no code."""
    profiles: list[ProfileReference] = Field(default_factory=list, max_length=16)
    """To measure beside off."""
    system: Annotated[str, AfterValidator(_prompt)] = Field(default=SYSTEM, max_length=4096)
    """System prompt of the baseline; empty for none."""
    limit: int | None = Field(default=None, ge=1, le=MAX_SEED)
    """Questions of a suite; all if not given."""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """Of what is drawn: questions, orders of options, claims."""
    deterministic: bool = True
    """Same numbers to the last bit, also after an interruption; slower."""
    fail_under: Goals = Field(default_factory=list)
    """METRIC=VALUE: the exit code is 1 if it is lower, steered or else off."""
    fail_over: Goals = Field(default_factory=list)
    """The same if it is higher."""


JobRequest = Annotated[CalibrateJob | EvaluateJob, Field(discriminator="kind")]


class JobProgress(TypedDict):
    """How far the current stage is."""

    stage: str
    done: int
    total: int
    """About."""
    unit: str
    """What is counted, in the plural."""
    eta_s: NotRequired[float]
    """Seconds that the stage still takes at the pace so far."""
    message: str


class JobSummary(TypedDict):
    id: str
    object: Literal["steering.job"]
    kind: NotRequired[str]
    """Absent where no record can be read."""
    state: State
    """`interrupted`: it goes on when it is its turn; `corrupt`: its record is damaged."""
    created: NotRequired[int]
    """Unix seconds."""
    started: NotRequired[int]
    ended: NotRequired[int]
    attempts: NotRequired[int]
    """Starts: one, and one more after each interruption."""
    parameters: NotRequired[dict[str, Any]]
    """As asked, defaults filled in; of questions their number, of profiles the digest."""
    exit_code: NotRequired[int]
    """0; 1 where a check failed: nothing was proved, or a goal was missed."""
    reason: NotRequired[str]
    """Why it failed, waits or is corrupt."""
    progress: NotRequired[JobProgress]


class Job(JobSummary):
    """One job. What is not known yet is absent."""

    result: NotRequired[Any]
    """Of one that is completed: the `profiles` that were made, each with whether it is `published`; or the `report`."""
    log: list[str]
    """The last lines that the command wrote."""


class JobList(TypedDict):
    object: Literal["list"]
    data: list[JobSummary]


class JobDeleted(TypedDict):
    id: str
    object: Literal["steering.job.deleted"]
    deleted: Literal[True]
