"""`client.profiles`: the packs that a server has, sync and async."""

from __future__ import annotations

from typing import cast
from urllib.parse import quote

from openai import AsyncOpenAI, OpenAI

from unsway_client.types import Profile, ProfileDetails, ProfileList

ROOT = "/steering/profiles"


def path(name: str) -> str:
    return f"{ROOT}/{quote(name, safe='@')}"


class Profiles:
    def __init__(self, client: OpenAI) -> None:
        self._client = client

    def list(self) -> list[Profile]:
        """All of them, broken ones with the reason."""
        return cast(ProfileList, self._client.get(ROOT, cast_to=object))["data"]

    def get(self, name: str) -> ProfileDetails:
        """One, by name or `name@digest`, with its corrections and its evidence."""
        return cast(ProfileDetails, self._client.get(path(name), cast_to=object))

    def card(self, name: str) -> str:
        """What there is to say about it to people, in Markdown."""
        return self._client.get(f"{path(name)}/card", cast_to=str)


class AsyncProfiles:
    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client

    async def list(self) -> list[Profile]:
        """All of them, broken ones with the reason."""
        return cast(ProfileList, await self._client.get(ROOT, cast_to=object))["data"]

    async def get(self, name: str) -> ProfileDetails:
        """One, by name or `name@digest`, with its corrections and its evidence."""
        return cast(ProfileDetails, await self._client.get(path(name), cast_to=object))

    async def card(self, name: str) -> str:
        """What there is to say about it to people, in Markdown."""
        return await self._client.get(f"{path(name)}/card", cast_to=str)
