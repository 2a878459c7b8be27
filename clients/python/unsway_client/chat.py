"""`client.chat.completions` with `steering=`, sync and async."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeVar, overload

from openai import AsyncStream, Stream
from openai.lib.streaming.chat import AsyncChatCompletionStreamManager, ChatCompletionStreamManager
from openai.resources.chat import AsyncChat, AsyncCompletions, Chat, Completions
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ParsedChatCompletion
from typing_extensions import Unpack

from unsway_client.parameters import AnyChat, StreamedChat, WholeChat, with_steering

T = TypeVar("T")


class SteeredCompletions(Completions):
    """OpenAI's, and every method also takes `steering`."""

    @overload  # type: ignore[override]  # the same arguments, named by OpenAI's own TypedDicts
    def create(self, **parameters: Unpack[WholeChat]) -> ChatCompletion: ...
    @overload
    def create(self, **parameters: Unpack[StreamedChat]) -> Stream[ChatCompletionChunk]: ...
    def create(self, **parameters: Any) -> Any:
        return super().create(**with_steering(parameters))

    @overload  # type: ignore[override]
    def stream(self, **parameters: Unpack[AnyChat]) -> ChatCompletionStreamManager[None]: ...
    @overload
    def stream(self, *, response_format: type[T], **parameters: Any) -> ChatCompletionStreamManager[T]: ...
    def stream(self, **parameters: Any) -> Any:
        return super().stream(**with_steering(parameters))

    def parse(self, *, response_format: type[T], **parameters: Any) -> ParsedChatCompletion[T]:  # type: ignore[override]
        return super().parse(response_format=response_format, **with_steering(parameters))


class SteeredChat(Chat):
    @cached_property
    def completions(self) -> SteeredCompletions:
        return SteeredCompletions(self._client)


class AsyncSteeredCompletions(AsyncCompletions):
    """OpenAI's, and every method also takes `steering`."""

    @overload  # type: ignore[override]
    async def create(self, **parameters: Unpack[WholeChat]) -> ChatCompletion: ...
    @overload
    async def create(self, **parameters: Unpack[StreamedChat]) -> AsyncStream[ChatCompletionChunk]: ...
    async def create(self, **parameters: Any) -> Any:
        return await super().create(**with_steering(parameters))

    @overload  # type: ignore[override]
    def stream(self, **parameters: Unpack[AnyChat]) -> AsyncChatCompletionStreamManager[None]: ...
    @overload
    def stream(self, *, response_format: type[T], **parameters: Any) -> AsyncChatCompletionStreamManager[T]: ...
    def stream(self, **parameters: Any) -> Any:
        return super().stream(**with_steering(parameters))

    async def parse(  # type: ignore[override]
        self, *, response_format: type[T], **parameters: Any
    ) -> ParsedChatCompletion[T]:
        return await super().parse(response_format=response_format, **with_steering(parameters))


class AsyncSteeredChat(AsyncChat):
    @cached_property
    def completions(self) -> AsyncSteeredCompletions:
        return AsyncSteeredCompletions(self._client)
