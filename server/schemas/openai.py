"""OpenAI's chat completion request, with one more field: `steering`."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, Tag
from pydantic.config import JsonDict
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from server.schemas.generation import STREAMED, Generation
from server.schemas.response_format import ResponseFormat
from server.schemas.rules import GIVEN, NULL, SOME, TRUE, absent, of, only_with
from server.schemas.strict import Strict, by_json_type
from server.schemas.tools import MAX_CALLS, MAX_TOOLS, CallId, Tool, ToolCall, ToolChoice

IGNORED = frozenset(
    {
        "metadata",
        "moderation",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "store",
        "user",
        "verbosity",
    }
)
"""OpenAI's fields that do not change what this server answers: taken, and named in `x-ignored-params`."""

MAX_MESSAGES = 1024
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "web_search_options": (),
}
"""OpenAI's fields that would change the answer and are not served: the values that ask for nothing."""

_UNSUPPORTED_PARTS = ("audio", "file", "image", "image_url", "input_audio", "refusal", "video_url")


def unsupported(name: str, value: object) -> str | None:
    """What to say about a field that asks for something that is not served; None for all others."""
    if value is None or name not in _NEUTRAL or value in _NEUTRAL[name]:
        return None
    served = " or ".join(json.dumps(neutral) for neutral in _NEUTRAL[name])
    return f"{name} is not supported" + (f" other than {served}." if served else ".")


def _text_part(part: object) -> object:
    if isinstance(part, dict) and any(part.get("type") == kind for kind in _UNSUPPORTED_PARTS):
        raise PydanticCustomError("unsupported_content", "must be a text part: other content is never read or fetched")
    return part


def _must_be_empty(value: object) -> object:
    if value:
        raise PydanticCustomError("unsupported_parameter", "is not supported; only null is")
    return None


class TextPart(Strict):
    type: Literal["text"]
    text: str


Content = Annotated[
    Annotated[str, Tag("form:text")]
    | Annotated[
        list[Annotated[TextPart, BeforeValidator(_text_part)]],
        Field(min_length=1, max_length=1024),
        Tag("form:parts"),
    ],
    by_json_type({str: "form:text", list: "form:parts"}, "a string or an array of text parts"),
]
Empty = SkipJsonSchema[Annotated[object, BeforeValidator(_must_be_empty)]]


_BY_ROLE: JsonDict = {
    "if": of(role={"const": "assistant"}),
    "then": {"properties": {"tool_call_id": NULL}, "anyOf": [of(content=GIVEN), of(tool_calls=SOME)]},
    "else": {
        "required": ["content"],
        "properties": {"content": GIVEN, **absent("tool_calls", "reasoning_content")["properties"]},
        "if": of(role={"const": "tool"}),
        "then": of(tool_call_id=GIVEN),
        "else": {"properties": {"tool_call_id": NULL}},
    },
}


class Message(Strict):
    """One turn. What the official clients send back of an earlier reply (`refusal`, ...) is taken if it is empty."""

    model_config = ConfigDict(json_schema_extra=_BY_ROLE)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    """Only the assistant's may have none, where it has calls."""
    name: str | None = None
    """Ignored: chat templates have no place for it."""
    tool_calls: list[ToolCall] | None = Field(default=None, max_length=MAX_CALLS)
    """The assistant's: what it asked to call."""
    tool_call_id: CallId | None = None
    """Of a `tool` message: which call it answers, one of an assistant's message before it."""
    reasoning_content: str | None = None
    """The assistant's, as replies have it; templates keep it or leave it out."""
    refusal: Empty = None
    annotations: Empty = None
    audio: Empty = None
    function_call: Empty = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())


_UNCONSTRAINED = {
    "properties": {
        "response_format": {"anyOf": [NULL, of(type={"const": "text"})]},
        "tool_choice": {"enum": [None, "none", "auto"]},
        "tools": {"items": {"properties": {"function": {"properties": {"strict": {"enum": [None, False]}}}}}},
    }
}


class ChatRequest(Generation):
    """`POST /v1/chat/completions`. null means absent, for every field but `model` and `messages`."""

    model_config = ConfigDict(
        json_schema_extra={
            "dependentSchemas": {
                **STREAMED,
                **only_with("top_logprobs", of(logprobs=TRUE)),
                **only_with("tool_choice", of(tools=SOME), unless={"enum": [None, "none", "auto"]}),
                **only_with("stop_token_ids", _UNCONSTRAINED, unless={"enum": [None, []]}),
            }
        }
    )

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    """Where the last one is the assistant's, the answer continues it."""
    max_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """Equal to `max_completion_tokens`, if both are given; 1024 if neither is, or what the context has room for."""
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    service_tier: Literal["auto", "default", "flex", "priority", "scale", "fast"] | None = None
    """`flex` waits until no other request does, and is the first to make room; all others are `default`. The reply says
    which it was."""
    response_format: ResponseFormat | None = None
    """What the answer is, beside steering: it ends where its JSON is complete, or unfinished at `max_tokens`
    (finish_reason `length`). Not together with `stop_token_ids`, as all that constrains an answer: calls that have to
    be made, or hold to a schema, or are one at most."""
    tools: list[Tool] | None = Field(default=None, max_length=MAX_TOOLS)
    """Functions that the model may ask to call, where its chat template takes tools."""
    tool_choice: ToolChoice | None = None
    """`auto` if not given. `required` and a named function hold always: the answer is calls, whose arguments are what
    `parameters` say."""
    parallel_tool_calls: bool | None = None
    """false: at most one call."""

    audio: SkipJsonSchema[object] = None
    function_call: SkipJsonSchema[object] = None
    functions: SkipJsonSchema[object] = None
    modalities: SkipJsonSchema[object] = None
    web_search_options: SkipJsonSchema[object] = None
