"""The clients: OpenAI's, pointed at an Unsway server, with `steering=` and the routes of steering."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any, cast
from urllib.parse import quote

from openai import AsyncOpenAI, OpenAI
from typing_extensions import Unpack

from unsway_client.chat import AsyncSteeredChat, SteeredChat
from unsway_client.completions import AsyncSteeredTexts, SteeredTexts
from unsway_client.jobs import AsyncJobs, Jobs
from unsway_client.profiles import AsyncProfiles, Profiles
from unsway_client.responses import AsyncSteeredResponses, SteeredResponses
from unsway_client.types import LensReply, LensRequest, Trace, VerifyReply, VerifyRequest

BASE_URL = "http://127.0.0.1:8000/v1"
_LENS, _TRACES, _VERIFY = "/steering/lens", "/steering/traces", "/steering/verify"


def _options(base_url: str | None, api_key: str | None, others: dict[str, Any]) -> dict[str, Any]:
    """Never OPENAI_API_KEY, which the openai package would send: that key is for another server."""
    return others | {
        "base_url": base_url or os.environ.get("UNSWAY_BASE_URL") or BASE_URL,
        "api_key": api_key or os.environ.get("UNSWAY_API_KEY") or "none",
    }


class UnswayOpenAI(OpenAI):
    """`openai.OpenAI` for an Unsway server.

    base_url: with the `/v1`; if not given UNSWAY_BASE_URL, else this machine's port 8000. api_key: if not given
    UNSWAY_API_KEY. All other options are those of `openai.OpenAI`.
    """

    def __init__(self, *, base_url: Any = None, api_key: Any = None, **options: Any) -> None:
        super().__init__(**_options(base_url, api_key, options))

    @cached_property
    def chat(self) -> SteeredChat:
        return SteeredChat(self)

    @cached_property
    def completions(self) -> SteeredTexts:
        return SteeredTexts(self)

    @cached_property
    def responses(self) -> SteeredResponses:
        return SteeredResponses(self)

    @cached_property
    def profiles(self) -> Profiles:
        return Profiles(self)

    @cached_property
    def jobs(self) -> Jobs:
        return Jobs(self)

    def lens(self, **request: Unpack[LensRequest]) -> LensReply:
        """What every layer would say comes next, at every position of a prompt. `plot_lens` draws it."""
        return cast(LensReply, self.post(_LENS, cast_to=object, body=request))

    def verify(self, **request: Unpack[VerifyRequest]) -> VerifyReply:
        """Whether an answer, given or generated, drifted from what the early layers would have said."""
        return cast(VerifyReply, self.post(_VERIFY, cast_to=object, body=request))

    def traces(self, reply_id: str) -> Trace:
        """Receipts and traces of a request that ended less than ten minutes ago, by the `id` of its reply."""
        return cast(Trace, self.get(f"{_TRACES}/{quote(reply_id, safe='')}", cast_to=object))


class AsyncUnswayOpenAI(AsyncOpenAI):
    """`openai.AsyncOpenAI` for an Unsway server; see UnswayOpenAI."""

    def __init__(self, *, base_url: Any = None, api_key: Any = None, **options: Any) -> None:
        super().__init__(**_options(base_url, api_key, options))

    @cached_property
    def chat(self) -> AsyncSteeredChat:
        return AsyncSteeredChat(self)

    @cached_property
    def completions(self) -> AsyncSteeredTexts:
        return AsyncSteeredTexts(self)

    @cached_property
    def responses(self) -> AsyncSteeredResponses:
        return AsyncSteeredResponses(self)

    @cached_property
    def profiles(self) -> AsyncProfiles:
        return AsyncProfiles(self)

    @cached_property
    def jobs(self) -> AsyncJobs:
        return AsyncJobs(self)

    async def lens(self, **request: Unpack[LensRequest]) -> LensReply:
        """What every layer would say comes next, at every position of a prompt. `plot_lens` draws it."""
        return cast(LensReply, await self.post(_LENS, cast_to=object, body=request))

    async def verify(self, **request: Unpack[VerifyRequest]) -> VerifyReply:
        """Whether an answer, given or generated, drifted from what the early layers would have said."""
        return cast(VerifyReply, await self.post(_VERIFY, cast_to=object, body=request))

    async def traces(self, reply_id: str) -> Trace:
        """Receipts and traces of a request that ended less than ten minutes ago, by the `id` of its reply."""
        return cast(Trace, await self.get(f"{_TRACES}/{quote(reply_id, safe='')}", cast_to=object))
