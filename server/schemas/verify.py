"""What `POST /v1/steering/verify` takes and tells: an answer against what the early layers would have said."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.schemas.lens import MAX_CANDIDATES
from server.schemas.openai import MAX_MESSAGES, Message
from server.schemas.rules import absent, only_with
from server.schemas.steering import ProfileReference
from server.schemas.strict import Strict

MAX_ANSWER = 2**16
"""Characters."""


def _different(candidates: list[str]) -> list[str]:
    if len({candidate.strip() for candidate in candidates}) < len(candidates):
        raise PydanticCustomError("invalid_value", "must not name a candidate twice")
    return candidates


class VerifyRequest(Strict):
    """`POST /v1/steering/verify`. null means absent."""

    model_config = ConfigDict(json_schema_extra={"dependentSchemas": only_with("max_tokens", absent("answer"))})

    model: str | None = Field(default=None, min_length=1, max_length=512)
    """The served model's id; it need not be named."""
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    """The conversation up to where the answer begins; where the last message is the assistant's, the answer goes on
    from it."""
    answer: str | None = Field(default=None, min_length=1, max_length=MAX_ANSWER)
    """What was answered, whoever said it; if absent, the plain model answers, greedily."""
    candidates: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=256)]],
            Field(min_length=2, max_length=MAX_CANDIDATES, json_schema_extra={"uniqueItems": True}),
            AfterValidator(_different),
        ]
        | None
    ) = None
    """Answers that could stand in the place of one another. The one that the answer stands by is compared with the
    others there."""
    profile: ProfileReference | None = None
    """Whose lens reads the early answer, and by whose threshold it is judged; the server's default if absent."""
    max_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """Of an answer that is generated; 256 if not given."""


class VerifiedCandidate(TypedDict):
    """One candidate in the answer's place: its log-probability under the early layer and under the output, from the
    first token on in which the candidates differ."""

    text: str
    tokens: list[str]
    """From there on."""
    early_logprob: float
    late_logprob: float


class VerifyReply(TypedDict):
    """The verdict, and all that it was decided on."""

    object: Literal["steering.verification"]
    model: str
    system_fingerprint: str
    profile: str
    layer: int
    lens: Literal["logit", "tuned"]
    verdict: Literal["consistent", "drifted", "undecided"]
    reason: NotRequired[str]
    """Why it is undecided."""
    false_alarms: NotRequired[float]
    """At most this share of harmless answers is called drifted; absent where the profile is not calibrated."""
    calibrated_tokens: NotRequired[int]
    """That share holds for answers up to so many tokens."""
    threshold: float
    """Drift above which an answer may be called drifted, bits."""
    margin: float
    """Nats by which the early layer must prefer what it says."""
    answer: str
    answer_tokens: int
    """How many there are; those beyond the calibrated ones are not read."""
    at: NotRequired[int]
    """Token of the answer where it was decided."""
    drift: NotRequired[float]
    """Of early and output there, bits."""
    gap: NotRequired[float]
    """Nats by which the early layer prefers what it says there."""
    said: NotRequired[str]
    """The candidate that the answer stands by; without candidates its token there."""
    early: NotRequired[str]
    """The candidate that the early layer prefers; without candidates how it would have gone on from there."""
    candidates: NotRequired[list[VerifiedCandidate]]
