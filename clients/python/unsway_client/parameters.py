"""What `create` takes here: all that the openai package takes, and `steering`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from openai import Timeout
from openai.types import completion_create_params as text
from openai.types.chat import completion_create_params as chat
from openai.types.responses import response_create_params as response
from typing_extensions import TypedDict

from unsway_client.types import SteeringOptions

Steering: TypeAlias = SteeringOptions | bool | str
"""`True` (the default profile), `False` (off), a profile's name, or all of it as a dictionary."""


class Extra(TypedDict, total=False):
    """What every method adds to OpenAI's parameters."""

    steering: Steering | None
    extra_headers: Mapping[str, str] | None
    extra_query: Mapping[str, object] | None
    extra_body: Mapping[str, object] | None
    timeout: float | Timeout | None


class WholeChat(chat.CompletionCreateParamsNonStreaming, Extra, total=False):
    """A chat that is answered at once."""


class StreamedChat(chat.CompletionCreateParamsStreaming, Extra, total=False):
    """A chat that is answered in chunks."""


class AnyChat(chat.CompletionCreateParamsBase, Extra, total=False):
    """A chat that is answered either way."""


class WholeText(text.CompletionCreateParamsNonStreaming, Extra, total=False):
    """A completion that comes at once."""


class StreamedText(text.CompletionCreateParamsStreaming, Extra, total=False):
    """A completion that comes in chunks."""


class WholeResponse(response.ResponseCreateParamsNonStreaming, Extra, total=False):
    """A response that comes at once."""


class StreamedResponse(response.ResponseCreateParamsStreaming, Extra, total=False):
    """A response that comes in events."""


def with_steering(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The same parameters as the openai package takes them: `steering` becomes a part of `extra_body`."""
    rest = dict(parameters)
    steering = rest.pop("steering", None)
    if steering is None:
        return rest
    body = rest.get("extra_body") or {}
    if "steering" in body:
        raise TypeError("steering is given twice: as an argument and in extra_body")
    return rest | {"extra_body": {**body, "steering": steering}}
