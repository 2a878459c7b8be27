"""`client.responses` with `steering=`, sync and async."""

from __future__ import annotations

from typing import Any, overload

from openai import AsyncStream, Stream
from openai.resources.responses import AsyncResponses, Responses
from openai.types.responses import Response, ResponseStreamEvent
from typing_extensions import Unpack

from unsway_client.parameters import StreamedResponse, WholeResponse, with_steering


class SteeredResponses(Responses):
    """OpenAI's, and `create` also takes `steering`."""

    @overload  # type: ignore[override]  # the same arguments, named by OpenAI's own TypedDicts
    def create(self, **parameters: Unpack[WholeResponse]) -> Response: ...
    @overload
    def create(self, **parameters: Unpack[StreamedResponse]) -> Stream[ResponseStreamEvent]: ...
    def create(self, **parameters: Any) -> Any:
        return super().create(**with_steering(parameters))


class AsyncSteeredResponses(AsyncResponses):
    """OpenAI's, and `create` also takes `steering`."""

    @overload  # type: ignore[override]
    async def create(self, **parameters: Unpack[WholeResponse]) -> Response: ...
    @overload
    async def create(self, **parameters: Unpack[StreamedResponse]) -> AsyncStream[ResponseStreamEvent]: ...
    async def create(self, **parameters: Any) -> Any:
        return await super().create(**with_steering(parameters))
