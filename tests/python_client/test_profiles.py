"""`client.profiles` against a server that takes uploads: up, replaced, down; who is late is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import openai
import pytest

from server.serving import load
from server.settings import Settings
from steering.one_file import pack_in_one_file
from steering.pack import Pack, save_pack
from tests.live_question import HELD
from tests.python_client.typed_use import ASKED, MODEL
from tests.server.live import Live, serve
from unsway_client import AsyncUnswayOpenAI, UnswayOpenAI, receipt


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serve(partial(load, Settings(uploads=tmp_path_factory.mktemp("uploads")))) as live:
        yield live


@pytest.fixture
def client(live: Live) -> Iterator[UnswayOpenAI]:
    with UnswayOpenAI(base_url=f"{live.url}/v1", max_retries=0) as client:
        yield client


def packed(live: Live, name: str, folder: Path) -> bytes:
    """The bundled profile under another name, in one file."""
    pack = dict(live.served.store.entries())["candid"]
    assert isinstance(pack, Pack)
    save_pack(replace(pack, name=name), folder / name)
    return b"".join(pack_in_one_file(folder / name).pieces())


def test_up_and_down(client: UnswayOpenAI, live: Live, tmp_path: Path) -> None:
    file = tmp_path / "steady.safetensors"
    file.write_bytes(packed(live, "steady", tmp_path))
    made = client.profiles.upload("steady", file)
    assert made["name"] == "steady" and made["uploaded"] is True
    reply = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0, steering="steady")
    told = receipt(reply)
    assert reply.choices[0].message.content == HELD and told and told["profile"].startswith("steady@")
    assert [profile["name"] for profile in client.profiles.list()] == ["candid", "steady"]
    assert client.profiles.file("steady") == file.read_bytes()
    client.profiles.delete("steady")
    with pytest.raises(openai.NotFoundError) as gone:
        client.profiles.get("steady")
    assert gone.value.code == "steering_profile_not_found"


def test_who_is_late_is_told(client: UnswayOpenAI, live: Live, tmp_path: Path) -> None:
    pack = packed(live, "calm", tmp_path)
    digest = client.profiles.upload("calm", pack)["digest"]
    with pytest.raises(openai.ConflictError) as taken:
        client.profiles.upload("calm", pack)
    assert taken.value.code == "profile_exists"
    assert client.profiles.upload("calm", pack, if_match=digest)["digest"] == digest
    with pytest.raises(openai.APIStatusError) as stale:
        client.profiles.upload("calm", pack, if_match="0" * 64)
    assert (stale.value.status_code, stale.value.code) == (412, "etag_mismatch")
    with pytest.raises(openai.APIStatusError) as changed:
        client.profiles.delete("calm", if_match="0" * 64)
    assert changed.value.status_code == 412
    client.profiles.upload("calm", pack, if_match="*")
    client.profiles.delete("calm", if_match=digest)


def test_what_is_no_pack(client: UnswayOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.profiles.upload("steady", b"PK\x03\x04")
    assert refused.value.status_code == 400 and refused.value.code == "unsupported_file_format"
    with pytest.raises(openai.ConflictError) as fixed:
        client.profiles.delete("candid", if_match="*")
    assert fixed.value.code == "profile_in_use"


async def test_async(live: Live, tmp_path: Path) -> None:
    async with AsyncUnswayOpenAI(base_url=f"{live.url}/v1", max_retries=0) as client:
        pack = packed(live, "wide", tmp_path)
        assert (await client.profiles.upload("wide", pack))["name"] == "wide"
        await client.profiles.upload("wide", await client.profiles.file("wide"), if_match="*")
        await client.profiles.delete("wide")
        assert [profile["name"] for profile in await client.profiles.list()] == ["candid"]
