"""`POST /v1/responses`: OpenAI's Responses API without a memory; with one more field: `steering`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from server.schemas.generation import STREAMED, Answered
from server.schemas.openai import MAX_MESSAGES
from server.schemas.response_format import JsonObjectFormat, TextFormat
from server.schemas.rules import SOME, of, only_with
from server.schemas.strict import Strict, by_json_type
from server.schemas.tools import MAX_TOOLS, Arguments, CallId, FunctionName, FunctionTool, ToolMode

MAX_METADATA = 16
IGNORED_IN_RESPONSES = frozenset(
    {
        "access_programs",
        "context_management",
        "max_tool_calls",
        "moderation",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "user",
    }
)
"""OpenAI's fields that do not change what this server answers: taken, and named in `x-ignored-params`."""
NEUTRAL_IN_RESPONSES: Mapping[str, tuple[object, ...]] = {
    "background": (False,),
    "conversation": (),
    "image": (),
    "previous_response_id": (),
    "prompt": (),
    "store": (False,),
    "truncation": ("disabled",),
}
"""Fields that would change the answer, or what is kept of it, and are not served: the values that ask for nothing."""

LOGPROBS = "message.output_text.logprobs"
_TEXT_PARTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
_ITEMS = ("message", "function_call", "function_call_output", "reasoning")


def _text_part(part: object) -> object:
    """What replies have of a text beside it is not read."""
    if not isinstance(part, dict):
        return part
    if part.get("type") not in _TEXT_PARTS:
        raise PydanticCustomError("unsupported_content", "must be a text part: other content is never read or fetched")
    return {
        key: value for key, value in part.items() if key not in ("annotations", "logprobs", "prompt_cache_breakpoint")
    }


class ItemText(Strict):
    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str


Parts = Annotated[list[Annotated[ItemText, BeforeValidator(_text_part)]], Field(max_length=1024)]
ItemContent = Annotated[
    Annotated[str, Tag("form:text")] | Annotated[Parts, Tag("form:parts")],
    by_json_type({str: "form:text", list: "form:parts"}, "a string or an array of text parts"),
]
Unread = SkipJsonSchema[Any]
"""What replies have and requests bring back, without a meaning here."""


_ASYNC: Any = Field(default=None, validation_alias=AliasChoices("async", "async_"))
"""The `openai` package dumps it under either name."""


class _Item(Strict):
    id: Unread = None
    status: Unread = None
    steering: Unread = None
    logprobs: Unread = None


class MessageItem(_Item):
    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: ItemContent
    phase: Unread = None


class CallItem(_Item):
    """A call that an earlier response asked for."""

    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: Arguments
    caller: Unread = None
    namespace: Unread = None
    async_: Unread = _ASYNC


class CallOutputItem(_Item):
    """What came of it."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: ItemContent
    caller: Unread = None
    name: Unread = None
    namespace: Unread = None


class ReasoningItem(_Item):
    """What the model thought; templates keep it or leave it out."""

    type: Literal["reasoning"]
    summary: Parts = Field(default_factory=list)
    content: Parts | None = None
    encrypted_content: Unread = None


def _item(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind is None and isinstance(value, Mapping) and "role" in value:
        kind = "message"
    return f"form:{kind}" if kind in _ITEMS else None


Item = Annotated[
    Annotated[MessageItem, Tag("form:message")]
    | Annotated[CallItem, Tag("form:function_call")]
    | Annotated[CallOutputItem, Tag("form:function_call_output")]
    | Annotated[ReasoningItem, Tag("form:reasoning")],
    Discriminator(
        _item,
        custom_error_type="unsupported_content",
        custom_error_message="must be a message, a function_call, a function_call_output or a reasoning item",
    ),
]
Input = Annotated[
    Annotated[str, Field(min_length=1), Tag("form:text")]
    | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES), Tag("form:items")],
    by_json_type({str: "form:text", list: "form:items"}, "a string or an array of items"),
]


class ResponseJsonSchema(Strict):
    """JSON that a schema describes; its properties come in the order of the schema."""

    type: Literal["json_schema"]
    name: str = Field(min_length=1, max_length=64)
    """Taken and not used."""
    json_schema: dict[str, object] = Field(alias="schema")
    """What the answer must be, up to 64 KB, as in `response_format` of chats."""
    strict: bool | None = None
    """Taken and not used: the schema always holds."""
    description: str | None = Field(default=None, max_length=4096)
    """Taken and not used."""


_FORMATS = ("text", "json_object", "json_schema")


def _format(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, Mapping) else None
    return f"form:{kind}" if kind in _FORMATS else None


TextForm = Annotated[
    Annotated[TextFormat, Tag("form:text")]
    | Annotated[JsonObjectFormat, Tag("form:json_object")]
    | Annotated[ResponseJsonSchema, Tag("form:json_schema")],
    Discriminator(
        _format,
        custom_error_type="invalid_value",
        custom_error_message='must be an object whose type is "text", "json_object" or "json_schema"',
    ),
]


class TextOptions(Strict):
    format: TextForm | None = None
    verbosity: Unread = None


def _function_tool(value: object) -> object:
    if isinstance(value, dict) and value.get("type") != "function":
        raise PydanticCustomError(
            "unsupported_parameter", "must be of type function: this server has no tools of its own"
        )
    return value


class ResponseTool(FunctionTool):
    """A function that the model may ask to call."""

    type: Literal["function"]
    allowed_callers: Unread = None
    async_: Unread = _ASYNC
    defer_loading: Unread = None
    output_schema: Unread = None


class ResponseNamedTool(Strict):
    type: Literal["function"]
    name: FunctionName


ResponseToolChoice = Annotated[
    Annotated[ToolMode, Tag("form:mode")] | Annotated[ResponseNamedTool, Tag("form:function")],
    by_json_type(
        {str: "form:mode", dict: "form:function"}, '"none", "auto", "required" or an object that names a function'
    ),
]
MetadataValue = Annotated[str, Field(max_length=512)]
MetadataKey = Annotated[str, Field(max_length=64)]


class ResponsesRequest(Answered):
    """`POST /v1/responses`. null means absent, for every field but `model` and `input`. Steering mode `compare` is for
    chats: it gives two answers."""

    model_config = ConfigDict(
        json_schema_extra={
            "dependentSchemas": {
                **STREAMED,
                **only_with("tool_choice", of(tools=SOME), unless={"enum": [None, "none", "auto"]}),
            }
        }
    )

    input: Input
    """What the user says, or all that was said: messages, calls and what came of them. Nothing is kept here, so every
    request brings all of it."""
    instructions: str | None = None
    """Before all of it, as the system."""
    max_output_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    """1 if not given; values below 0.00001 are greedy."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Turns log-probabilities on, as `include` with `message.output_text.logprobs` does."""
    text: TextOptions | None = None
    tools: list[Annotated[ResponseTool, BeforeValidator(_function_tool)]] | None = Field(
        default=None, max_length=MAX_TOOLS
    )
    tool_choice: ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """false: at most one call."""
    metadata: dict[MetadataKey, MetadataValue] | None = Field(default=None, max_length=MAX_METADATA)
    """Told back in the reply."""
    include: list[Annotated[str, Field(max_length=64)]] | None = Field(default=None, max_length=16)
    """Of `message.output_text.logprobs` alone there is something to include."""
    service_tier: Literal["auto", "default", "flex", "priority", "scale", "fast"] | None = None
    """As in chats."""
    seed: int | None = Field(default=None, ge=0, le=2**64 - 1)
    """Extension, as in chats."""

    background: SkipJsonSchema[object] = None
    conversation: SkipJsonSchema[object] = None
    image: SkipJsonSchema[object] = None
    previous_response_id: SkipJsonSchema[object] = None
    prompt: SkipJsonSchema[object] = None
    store: SkipJsonSchema[object] = None
    truncation: SkipJsonSchema[object] = None
