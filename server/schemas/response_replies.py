"""What `POST /v1/responses` tells, whole and as events, in OpenAI's shapes with one more key: `steering`."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from server.schemas.replies import CompletionTokensDetails, ServiceTier, TokenLogprob
from server.schemas.steering import Receipt

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: list[str]
    logprobs: list[TokenLogprob]


class ReasoningText(TypedDict):
    type: Literal["reasoning_text"]
    text: str


class OutputItem(TypedDict):
    """What the items have in common."""

    id: str
    status: ItemStatus
    steering: NotRequired[Receipt]
    """On the last item of a response that was steered or observed."""


class OutputMessage(OutputItem):
    type: Literal["message"]
    role: Literal["assistant"]
    content: list[OutputText]


class OutputCall(OutputItem):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    logprobs: NotRequired[list[TokenLogprob]]
    """Extension: of its tokens, where log-probabilities are asked for."""


class OutputReasoning(OutputItem):
    type: Literal["reasoning"]
    summary: list[ReasoningText]
    content: list[ReasoningText]
    logprobs: NotRequired[list[TokenLogprob]]
    """Extension: of its tokens, where log-probabilities are asked for."""


Output = OutputMessage | OutputCall | OutputReasoning


class InputTokensDetails(TypedDict):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(CompletionTokensDetails):
    reasoning_tokens: int


class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseFailure(TypedDict):
    code: Literal["server_error"]
    message: str


class IncompleteDetails(TypedDict):
    reason: Literal["max_output_tokens"]


class ResponseReply(TypedDict):
    """One response."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    system_fingerprint: str
    output: list[Output]
    usage: ResponseUsage | None
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    service_tier: NotRequired[ServiceTier]
    steering: NotRequired[Receipt]
    store: Literal[False]
    temperature: float
    text: dict[str, object]
    tool_choice: object
    tools: list[dict[str, object]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]


class ResponseEvent(TypedDict):
    """One event of a stream. Which further keys it has says `type`: OpenAI's documentation has them all."""

    type: str
    sequence_number: int
    response: NotRequired[ResponseReply]
    item: NotRequired[Output]
    output_index: NotRequired[int]
    item_id: NotRequired[str]
    content_index: NotRequired[int]
    part: NotRequired[OutputText | ReasoningText]
    delta: NotRequired[str]
    text: NotRequired[str]
    arguments: NotRequired[str]
    name: NotRequired[str]
    logprobs: NotRequired[list[TokenLogprob]]
