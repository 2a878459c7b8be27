"""What requests for chats and for completions have in common: how tokens are drawn, streams, steering."""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, Tag, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from server.schemas.rules import TRUE, of, only_with
from server.schemas.steering import Steering
from server.schemas.strict import Strict, by_json_type

MAX_BIASED = 300
MAX_STOPS = 4
MAX_STOP_LENGTH = 256
_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: SkipJsonSchema[bool | None] = None


STREAMED = only_with("stream_options", of(stream=TRUE))
"""Of every request that can be."""

StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stop = Annotated[
    Annotated[StopString, Tag("form:text")]
    | Annotated[list[StopString], Field(max_length=MAX_STOPS), Tag("form:list")],
    by_json_type({str: "form:text", list: "form:list"}, "a string or an array of up to 4 strings"),
]


def _bias_entries(value: object) -> object:
    if isinstance(value, dict):
        if len(value) > MAX_BIASED:
            raise PydanticCustomError("array_above_max_length", f"must have at most {MAX_BIASED} entries")
        for key in value:
            if _TOKEN_ID.fullmatch(key) is None:
                told = {"key": json.dumps(key[:40])}
                raise PydanticCustomError("invalid_value", "must map token ids to numbers (got the key {key})", told)
    return value


def _bias(value: float) -> float:
    if not -100 <= value <= 100:
        code = f"decimal_{'above_max' if value > 0 else 'below_min'}_value"
        raise PydanticCustomError(code, "must be between -100 and 100")
    return value


_BIAS = {
    "type": "object",
    "propertyNames": {"pattern": f"^({_TOKEN_ID.pattern})$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    "maxProperties": MAX_BIASED,
}
TokenId = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 0})]
Bias = Annotated[float, AfterValidator(_bias)]


class Answered(Strict):
    """Fields of every request that is answered by a model. null means absent."""

    model: str = Field(min_length=1, max_length=512)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    steering: Steering | None = None
    """Extension: activation steering of this request."""


class Generation(Answered):
    """Fields of requests for chats and for completions."""

    n: int | None = Field(default=None, ge=1, le=16)
    """Answers to each prompt. Answer i is drawn with seed + i, and has a gate and a receipt of its own."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """1 if not given; values below 0.00001 are greedy."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """Extension: keep the k most probable tokens; 0 keeps all."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Extension: drop tokens below min_p times the most probable one."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Taken off the logit of every token generated before."""
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    """The same, once for each time it was generated."""
    repetition_penalty: float | None = Field(default=None, ge=0.1, le=2)
    """Extension: divides positive and multiplies negative logits of tokens in the prompt or generated before."""
    logit_bias: Annotated[dict[str, Bias], BeforeValidator(_bias_entries), WithJsonSchema(_BIAS)] | None = None
    """Token id, below the width of the logits -> what is added to its logit, -100 to 100; at most 300 entries."""
    seed: int | None = Field(default=None, ge=0, le=2**64 - 1)
    stop: Stop | None = None
    stop_token_ids: list[TokenId] | None = Field(default=None, max_length=64)
    """Extension: tokens that end the answer besides the model's own; like these never part of it."""
    ignore_eos: bool | None = None
    """Extension: the model's own end tokens do not end the answer."""
