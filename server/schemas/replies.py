"""OpenAI's replies, with one more key: `steering`. Typed dictionaries: what we write needs types, not validation."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from server.schemas.steering import Receipt, TokenTrace


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """Of the distribution after steering, before penalties, bias, temperature, truncation; -inf is sent as -9999.0."""

    top_logprobs: list[TopLogprob]
    steering: NotRequired[TokenTrace]


class Logprobs(TypedDict):
    content: list[TokenLogprob]
    refusal: None


FinishReason = Literal["stop", "length"]
ChatFinishReason = Literal["stop", "length", "tool_calls"]
"""`tool_calls`: it ended by itself, and asks to call something."""
ServiceTier = Literal["default", "flex"]


class ReplyFunction(TypedDict):
    name: str
    arguments: str
    """JSON, as the model wrote it."""


class ReplyToolCall(TypedDict):
    id: str
    type: Literal["function"]
    function: ReplyFunction


class ReplyMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    """null where there are calls alone."""
    refusal: None
    reasoning_content: NotRequired[str]
    """What the model thought before it answered, where its template marks that."""
    tool_calls: NotRequired[list[ReplyToolCall]]


class Choice(TypedDict):
    index: int
    message: ReplyMessage
    logprobs: Logprobs | None
    finish_reason: ChatFinishReason
    steering: NotRequired[Receipt]


class CompletionTokensDetails(TypedDict):
    steered_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: CompletionTokensDetails


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: NotRequired[ServiceTier]
    choices: list[Choice]
    usage: Usage


class DeltaFunction(TypedDict):
    name: NotRequired[str]
    arguments: str


class DeltaToolCall(TypedDict):
    """`id`, `type` and the name come first, then the arguments in pieces."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: DeltaFunction


class Delta(TypedDict):
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[DeltaToolCall]]


class ChunkChoice(TypedDict):
    index: int
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: ChatFinishReason | None
    steering: NotRequired[Receipt]


class ChatCompletionChunk(TypedDict):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: NotRequired[ServiceTier]
    choices: list[ChunkChoice]
    usage: NotRequired[Usage | None]


class TextLogprobs(TypedDict):
    """Parallel lists, one entry per token. With `echo` the prompt's come first, the very first without numbers. Tokens
    that are no whole characters read `bytes:\\xe2\\x96`."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """Characters of the choice's text before each token."""
    steering: NotRequired[list[TokenTrace | None]]


class TextChoice(TypedDict):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None
    steering: NotRequired[Receipt]


class TextCompletion(TypedDict):
    """Whole and as the chunk of a stream alike."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: NotRequired[Usage | None]


class ModelSteering(TypedDict):
    """The profile that a model id of the form base+profile applies."""

    profile: str
    max_strength: float
    observe_only: bool


class ModelCard(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: NotRequired[str]
    steering: NotRequired[ModelSteering]


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelCard]
