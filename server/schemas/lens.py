"""What `POST /v1/steering/lens` takes and tells: the grid of layers and tokens."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.schemas.openai import MAX_MESSAGES, Message
from server.schemas.rules import of
from server.schemas.steering import ProfileReference
from server.schemas.strict import Strict
from steering.engine.request import MAX_TOP_LOGPROBS

MAX_CANDIDATES = 64


def _distinct(layers: list[int]) -> list[int]:
    if len(set(layers)) != len(layers):
        raise PydanticCustomError("invalid_value", "must not name a layer twice")
    return layers


Layer = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 0})]


class LensRequest(Strict):
    """`POST /v1/steering/lens`. Either `messages` or `text`; null means absent."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [of(messages={"type": "array"}), of(text={"type": "string"})]}
    )

    model: str | None = Field(default=None, min_length=1, max_length=512)
    """The served model's id; it need not be named."""
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    """A conversation, up to where the answer begins; where the last message is the assistant's, to its end."""
    text: str | None = Field(default=None, min_length=1)
    """A plain text, encoded as the model's tokenizer encodes it by default."""
    candidates: list[Annotated[str, Field(min_length=1, max_length=256)]] | None = Field(
        default=None, max_length=MAX_CANDIDATES
    )
    """What may follow the prompt: log-probabilities of the first token of each. The reply says which token that is."""
    profile: ProfileReference | None = None
    """Whose lens reads the layer that it is made for; all others are read by the logit lens. Nothing is steered."""
    top_logprobs: int | None = Field(default=None, ge=1, le=MAX_TOP_LOGPROBS)
    """Most probable tokens of each layer at each position; 5 if not given."""
    positions: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """The last so many of the prompt; all if not given."""
    layers: (
        Annotated[
            list[Layer], Field(max_length=1024, json_schema_extra={"uniqueItems": True}), AfterValidator(_distinct)
        ]
        | None
    ) = None
    """Hidden states: 0 the embeddings, i what block i receives; all if not given. The output is always read."""


class LensLayer(TypedDict):
    """How one column of the grid was read."""

    layer: int
    lens: Literal["logit", "tuned", "output"]


class LensCandidate(TypedDict):
    """A candidate, and the token that stands for it."""

    text: str
    token: str
    id: int
    num_tokens: int
    """Of the candidate; the log-probability is of the first."""


class LensCell(TypedDict):
    """What one layer says at one position comes next, over the whole vocabulary."""

    top: list[tuple[str, float]]
    """(text, log-probability), most probable first."""
    entropy: float
    """Bits."""
    kl: float
    """KL(output || layer), bits."""
    candidates: NotRequired[list[float]]
    """Log-probabilities, in the order of `candidates`."""


class LensPosition(TypedDict):
    """One token of the prompt, and what every layer says follows it."""

    position: int
    token: str
    id: int
    layers: list[LensCell]


class LensReply(TypedDict):
    """The grid: positions by layers, the output last."""

    object: Literal["steering.lens"]
    model: str
    system_fingerprint: str
    profile: NotRequired[str]
    prompt_tokens: int
    layers: list[LensLayer]
    candidates: NotRequired[list[LensCandidate]]
    positions: list[LensPosition]
