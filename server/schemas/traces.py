"""What is kept of a finished request."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from server.schemas.replies import FinishReason
from server.schemas.steering import Receipt, TokenTrace


class TracedToken(TypedDict):
    """One token of an answer, and what the lens saw where it was sampled, if there was a lens."""

    token: str
    steering: NotRequired[TokenTrace]


class TracedChoice(TypedDict):
    """One answer: its receipt and, for requests with `trace: tokens`, its tokens."""

    index: int
    finish_reason: FinishReason
    """Of the text as the model wrote it: `stop` also where the reply found calls in it and says `tool_calls`."""
    steering: Receipt
    tokens: NotRequired[list[TracedToken]]
    truncated: NotRequired[Literal[True]]
    """Tokens from here on are left out: all of them would take more than a trace may."""


class Trace(TypedDict):
    """Receipts and traces of one finished request. Nothing of its prompt is kept."""

    id: str
    """Of the reply."""
    object: Literal["steering.trace"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TracedChoice]
