"""`client.profiles`: the packs that a server has, sync and async.

A name to read may be pinned to a pack: `candid@` and 4 or more digits of its digest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias, cast
from urllib.parse import quote

from openai import AsyncOpenAI, OpenAI

from unsway_client.types import Profile, ProfileDetails, ProfileList

ROOT = "/steering/profiles"
PackFile: TypeAlias = bytes | Path
"""A pack in one file, as `file` gives it."""


class Profiles:
    def __init__(self, client: OpenAI) -> None:
        self._client = client

    def list(self) -> list[Profile]:
        """All of them, broken ones with the reason."""
        return cast(ProfileList, self._client.get(ROOT, cast_to=object))["data"]

    def get(self, name: str) -> ProfileDetails:
        """One, with its corrections and its evidence."""
        return cast(ProfileDetails, self._client.get(_path(name), cast_to=object))

    def card(self, name: str) -> str:
        """What there is to say about it to people, in Markdown."""
        return self._client.get(f"{_path(name)}/card", cast_to=str)

    def file(self, name: str) -> bytes:
        """The whole pack in one file, as `upload` takes it."""
        return self._client.get(f"{_path(name)}/file", cast_to=bytes)

    def upload(self, name: str, pack: PackFile, *, if_match: str | None = None) -> Profile:
        """Makes a profile of a pack. if_match: replace the one that has this digest, or `*` for whichever."""
        options = _options(if_match, **{"Content-Type": "application/octet-stream"})
        return cast(Profile, self._client.put(_path(name), cast_to=object, content=_content(pack), options=options))

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        """Takes an uploaded profile away. if_match: only if it still has this digest."""
        self._client.delete(_path(name), cast_to=type(None), options=_options(if_match))


class AsyncProfiles:
    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client

    async def list(self) -> list[Profile]:
        """All of them, broken ones with the reason."""
        return cast(ProfileList, await self._client.get(ROOT, cast_to=object))["data"]

    async def get(self, name: str) -> ProfileDetails:
        """One, with its corrections and its evidence."""
        return cast(ProfileDetails, await self._client.get(_path(name), cast_to=object))

    async def card(self, name: str) -> str:
        """What there is to say about it to people, in Markdown."""
        return await self._client.get(f"{_path(name)}/card", cast_to=str)

    async def file(self, name: str) -> bytes:
        """The whole pack in one file, as `upload` takes it."""
        return await self._client.get(f"{_path(name)}/file", cast_to=bytes)

    async def upload(self, name: str, pack: PackFile, *, if_match: str | None = None) -> Profile:
        """Makes a profile of a pack. if_match: replace the one that has this digest, or `*` for whichever."""
        options = _options(if_match, **{"Content-Type": "application/octet-stream"})
        told = await self._client.put(_path(name), cast_to=object, content=_content(pack), options=options)
        return cast(Profile, told)

    async def delete(self, name: str, *, if_match: str | None = None) -> None:
        """Takes an uploaded profile away. if_match: only if it still has this digest."""
        await self._client.delete(_path(name), cast_to=type(None), options=_options(if_match))


def _path(name: str) -> str:
    return f"{ROOT}/{quote(name, safe='@')}"


def _content(pack: PackFile) -> bytes:
    return pack.read_bytes() if isinstance(pack, Path) else pack


def _options(if_match: str | None, **headers: str) -> Any:
    if if_match is not None:
        headers["if-match"] = if_match if if_match == "*" else f'"{if_match}"'
    return {"headers": headers}
