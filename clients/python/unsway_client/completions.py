"""`client.completions` with `steering=`, sync and async."""

from __future__ import annotations

from typing import Any, overload

from openai import AsyncStream, Stream
from openai.resources import AsyncCompletions, Completions
from openai.types import Completion
from typing_extensions import Unpack

from unsway_client.parameters import StreamedText, WholeText, with_steering


class SteeredTexts(Completions):
    """OpenAI's, and `create` also takes `steering`."""

    @overload  # type: ignore[override]  # the same arguments, named by OpenAI's own TypedDicts
    def create(self, **parameters: Unpack[WholeText]) -> Completion: ...
    @overload
    def create(self, **parameters: Unpack[StreamedText]) -> Stream[Completion]: ...
    def create(self, **parameters: Any) -> Any:
        return super().create(**with_steering(parameters))


class AsyncSteeredTexts(AsyncCompletions):
    """OpenAI's, and `create` also takes `steering`."""

    @overload  # type: ignore[override]
    async def create(self, **parameters: Unpack[WholeText]) -> Completion: ...
    @overload
    async def create(self, **parameters: Unpack[StreamedText]) -> AsyncStream[Completion]: ...
    async def create(self, **parameters: Any) -> Any:
        return await super().create(**with_steering(parameters))
