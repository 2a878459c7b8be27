"""PUT and DELETE /v1/steering/profiles/{name}, and the file of one: conditions, rights, limits, and who runs then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydantic import TypeAdapter

from server.schemas.steering import Profile, ProfileDetails
from server.serving import Served
from steering.engine.config import EngineConfig
from steering.uploads import Quota
from tests.models import tiny_model
from tests.one_file import full, simple
from tests.server.fake_engine import FakeEngine
from tests.server.live import HELLO, Live, serve
from tests.server.packs import save_packs
from tests.server.uploads import (
    AMPLE,
    MODEL,
    ONE,
    ONE_DIGEST,
    TWO,
    TWO_DIGEST,
    etag,
    listed,
    put,
    serving,
    told,
    with_uploads,
)


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("packs")
    save_packs(directory, MODEL, tiny_model(seed=1))
    return directory


@pytest.fixture
def open_(packs: Path, tmp_path: Path) -> Iterator[Live]:
    """candid is its default, and came with it."""
    engine = FakeEngine(MODEL, EngineConfig(max_rows=4))
    with serving(with_uploads(tmp_path / "uploads", engine, packs=packs, default="candid")) as live:
        yield live
        live.wait_until(lambda: live.engine.num_open == 0)
        assert live.chat(steering="candid").status_code == 200  # as if nothing had been


def test_a_profile_comes_changes_and_goes(open_: Live) -> None:
    made = put(open_, ONE)
    assert made.status_code == 201 and made.headers["location"] == "/v1/steering/profiles/mine"
    assert made.headers["etag"] == etag(ONE_DIGEST) == open_.client.get("/v1/steering/profiles/mine").headers["etag"]
    TypeAdapter(Profile).validate_python(made.json(), strict=True, extra="forbid")
    assert listed(open_)["mine"] == made.json() and made.json()["uploaded"] is True
    assert "uploaded" not in listed(open_)["candid"]
    assert open_.chat(steering="mine").headers["x-steering-profile"] == f"mine@{ONE_DIGEST[:12]}"
    ids = {card["id"]: card for card in open_.client.get("/v1/models").json()["data"]}
    assert ids["tiny+mine"]["steering"]["profile"] == f"mine@{ONE_DIGEST[:12]}"
    assert open_.chat(model="tiny+mine").json()["choices"][0]["steering"]["profile"] == f"mine@{ONE_DIGEST[:12]}"

    replaced = put(open_, TWO, if_match=etag(ONE_DIGEST))
    assert replaced.status_code == 200 and "location" not in replaced.headers
    assert replaced.headers["etag"] == etag(TWO_DIGEST)
    details = open_.client.get("/v1/steering/profiles/mine").json()
    TypeAdapter(ProfileDetails).validate_python(details, strict=True, extra="forbid")
    assert details["digest"] == TWO_DIGEST and details["uploaded"] is True
    assert open_.chat(steering="mine").headers["x-steering-profile"] == f"mine@{TWO_DIGEST[:12]}"
    assert told(open_.chat(steering=f"mine@{ONE_DIGEST[:12]}")) == (404, "steering_profile_not_found")

    gone = open_.client.delete("/v1/steering/profiles/mine")
    assert (gone.status_code, gone.content) == (204, b"")
    assert told(open_.client.get("/v1/steering/profiles/mine")) == (404, "steering_profile_not_found")
    assert told(open_.client.delete("/v1/steering/profiles/mine")) == (404, "steering_profile_not_found")
    assert told(open_.chat(steering="mine")) == (404, "steering_profile_not_found")
    assert told(open_.chat(model="tiny+mine")) == (404, "model_not_found")
    assert put(open_, ONE).status_code == 201


def test_conditions(open_: Live) -> None:
    assert told(put(open_, ONE, if_match=etag(ONE_DIGEST))) == (412, "etag_mismatch")
    assert told(put(open_, ONE, if_match="*")) == (412, "etag_mismatch")
    assert put(open_, ONE, if_none_match="*").status_code == 201
    for headers in ({}, {"if_none_match": "*"}):
        again = put(open_, TWO, **headers)
        assert told(again) == (409, "profile_exists") and again.headers["x-should-retry"] == "false"
        assert again.json()["error"]["type"] == "conflict_error" and ONE_DIGEST[:12] in again.json()["error"]["message"]
    for stale in (etag(TWO_DIGEST), f"W/{etag(ONE_DIGEST)}", '""'):
        assert told(put(open_, TWO, if_match=stale)) == (412, "etag_mismatch")
        reply = open_.client.delete("/v1/steering/profiles/mine", headers={"if-match": stale})
        assert told(reply) == (412, "etag_mismatch")
    for malformed in (ONE_DIGEST, '"a" "b"', "", '"a", *'):
        reply = put(open_, TWO, if_match=malformed)
        assert told(reply) == (400, "invalid_value") and reply.json()["error"]["param"] == "If-Match"
    for none_match, match in ((etag(ONE_DIGEST), {}), ("*", {"if_match": etag(ONE_DIGEST)})):
        assert told(put(open_, TWO, if_none_match=none_match, **match)) == (400, "invalid_value")
    reply = open_.client.delete("/v1/steering/profiles/mine", headers={"if-none-match": "*"})
    assert told(reply) == (400, "invalid_value")
    assert listed(open_)["mine"]["digest"] == ONE_DIGEST
    assert put(open_, TWO, if_match=f'"x", {etag(ONE_DIGEST)}').status_code == 200
    assert put(open_, ONE, if_match="*").status_code == 200
    reply = open_.client.delete("/v1/steering/profiles/mine", headers={"if-match": etag(ONE_DIGEST)})
    assert reply.status_code == 204


def at_once(live: Live, raw: bytes, count: int = 8, **headers: str) -> list[int]:
    """Statuses of so many PUTs of one name."""
    start = threading.Barrier(count)

    def send(_: int) -> httpx.Response:
        with httpx.Client(base_url=live.url, timeout=60, trust_env=False) as client:
            start.wait(10)
            return client.put("/v1/steering/profiles/mine", content=raw, headers=headers)

    with ThreadPoolExecutor(count) as pool:
        replies = list(pool.map(send, range(count)))
    assert all(reply.headers["x-should-retry"] == "false" for reply in replies if reply.status_code == 409)
    return sorted(reply.status_code for reply in replies)


def test_T22_concurrent_creates(open_: Live) -> None:
    assert at_once(open_, ONE) == [201] + [409] * 7
    assert listed(open_)["mine"]["digest"] == ONE_DIGEST


def test_T21_two_puts_with_one_etag(open_: Live) -> None:
    put(open_, ONE)
    assert at_once(open_, TWO, **{"if-match": etag(ONE_DIGEST)}) == [200] + [412] * 7
    assert listed(open_)["mine"]["digest"] == TWO_DIGEST


def test_T20_fifty_requests_keep_the_profile_they_began_with(packs: Path, tmp_path: Path) -> None:
    gate = threading.Event()
    engine = FakeEngine(MODEL, EngineConfig(max_rows=64), gate=gate)
    with serving(with_uploads(tmp_path / "uploads", engine, packs=packs)) as live, ThreadPoolExecutor(51) as pool:
        put(live, ONE)
        answers = [pool.submit(ask, live) for _ in range(50)]
        live.wait_until(lambda: live.engine.num_open == 50)
        assert put(live, TWO, if_match=etag(ONE_DIGEST)).status_code == 200
        later = pool.submit(ask, live)
        live.wait_until(lambda: live.engine.num_open == 51)
        assert live.client.delete("/v1/steering/profiles/mine").status_code == 204
        assert told(live.chat(steering="mine")) == (404, "steering_profile_not_found")
        gate.set()
        assert {answer.result(30) for answer in answers} == {(200, f"mine@{ONE_DIGEST[:12]}")}
        assert later.result(30) == (200, f"mine@{TWO_DIGEST[:12]}")


def ask(live: Live) -> tuple[int, str]:
    """(status, the profile of its receipt) of one answer."""
    body = {"model": "tiny", "messages": HELLO, "seed": 1, "steering": "mine"}
    reply = httpx.post(f"{live.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    profile = reply.json()["choices"][0]["steering"]["profile"]
    assert reply.headers["x-steering-profile"] == profile
    return reply.status_code, profile


# Whose it is


def test_U6_only_its_key_or_an_admin_writes_a_profile(open_: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    key, scopes = "a", {"profiles"}
    monkeypatch.setattr("server.translate.uploads.caller_of", lambda scope: f"key:{key}")
    monkeypatch.setattr("server.translate.uploads.is_admin", lambda scope: "admin" in scopes)
    assert put(open_, ONE).status_code == 201
    key = "b"
    for refused in (
        put(open_, TWO, if_match=etag(ONE_DIGEST)),
        put(open_, TWO, if_match="*"),
        open_.client.delete("/v1/steering/profiles/mine"),
    ):
        assert told(refused) == (403, "insufficient_scope")
    assert told(put(open_, TWO)) == (409, "profile_exists")
    assert open_.client.get("/v1/steering/profiles/mine/file").status_code == 200  # reading is shared
    scopes.add("admin")
    assert put(open_, TWO, if_match=etag(ONE_DIGEST)).status_code == 200
    scopes.clear()
    key = "a"  # whose it still is
    assert open_.client.delete("/v1/steering/profiles/mine").status_code == 204


def test_what_came_with_the_server_stays(open_: Live) -> None:
    other = simple(MODEL, "firm")[0]
    assert told(put(open_, other, "firm")) == (409, "profile_exists")
    assert told(put(open_, other, "firm", if_match="*")) == (403, "profile_read_only")
    assert told(open_.client.delete("/v1/steering/profiles/firm")) == (403, "profile_read_only")
    assert told(open_.client.delete("/v1/steering/profiles/broken")) == (403, "profile_read_only")


def test_the_default_profile_can_change_and_not_go(tmp_path: Path) -> None:
    served = with_uploads(tmp_path / "uploads", FakeEngine(MODEL))
    with serving(replace(served, default_profile="mine")) as live:
        put(live, ONE)
        reply = live.client.delete("/v1/steering/profiles/mine")
        assert told(reply) == (409, "profile_in_use") and reply.headers["x-should-retry"] == "false"
        assert put(live, TWO, if_match=etag(ONE_DIGEST)).status_code == 200
        assert live.chat(steering=True).headers["x-steering-profile"] == f"mine@{TWO_DIGEST[:12]}"


def test_without_a_folder_nothing_can_be_uploaded(fake: Served) -> None:
    with serve(lambda: fake) as live:
        for reply in (put(live, ONE), live.client.delete("/v1/steering/profiles/firm")):
            assert told(reply) == (403, "profile_read_only") and "--uploads FOLDER" in reply.json()["error"]["message"]
        assert live.chat().status_code == 200


# How much


def test_T15_quotas(packs: Path, tmp_path: Path) -> None:
    quota = replace(AMPLE, packs=2)
    with serving(with_uploads(tmp_path / "a", FakeEngine(MODEL), packs=packs, quota=quota)) as live:
        for name in ("a", "b"):
            assert put(live, simple(MODEL, name)[0], name).status_code == 201
        reply = put(live, simple(MODEL, "c")[0], "c")
        assert told(reply) == (403, "profile_quota_exceeded") and "2 profiles" in reply.json()["error"]["message"]
        assert put(live, full(MODEL, "a")[0], "a", if_match="*").status_code == 200
        assert live.client.delete("/v1/steering/profiles/a").status_code == 204
        assert put(live, simple(MODEL, "c")[0], "c").status_code == 201
    with serving(with_uploads(tmp_path / "b", FakeEngine(MODEL), quota=Quota(9, 9999, 9, 9999))) as live:
        assert told(put(live, TWO)) == (403, "profile_quota_exceeded")
        assert listed(live) == {} and [path.name for path in (tmp_path / "b").iterdir()] == [".lock"]


def test_R6_labels_of_metrics_are_bounded(open_: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.metrics.MAX_PROFILES", 3)
    names = [f"p{i}" for i in range(8)]
    for name in names:
        put(open_, simple(MODEL, name)[0], name)
        assert open_.chat(steering=name, max_tokens=1).status_code == 200
        assert open_.client.delete(f"/v1/steering/profiles/{name}").status_code == 204
    page = open_.client.get("/metrics").text
    assert 'unsway_steering_requests_total{mode="on",profile="p0"} 1.0' in page
    assert 'unsway_steering_requests_total{mode="on",profile="other"} 5.0' in page
    assert f'profile="{names[-1]}"' not in page
    assert not listed(open_).keys() & set(names)


# The file


def test_what_goes_in_comes_out(open_: Live, tmp_path: Path) -> None:
    put(open_, TWO)
    url = "/v1/steering/profiles/mine/file"
    reply = open_.client.get(url)
    assert reply.content == TWO and reply.headers["content-length"] == str(len(TWO))
    assert reply.headers["content-type"] == "application/octet-stream" and reply.headers["etag"] == etag(TWO_DIGEST)
    assert reply.headers["content-disposition"] == 'attachment; filename="mine.safetensors"'
    unchanged = open_.client.get(url, headers={"if-none-match": etag(TWO_DIGEST)})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert open_.client.get(f"/v1/steering/profiles/mine@{TWO_DIGEST[:6]}/file").content == TWO
    with serving(with_uploads(tmp_path / "elsewhere", FakeEngine(MODEL))) as other:
        came_with_it = open_.client.get("/v1/steering/profiles/candid/file").content
        assert put(other, came_with_it, "candid").status_code == 201
        digest = open_.served.store.get("candid").digest
        assert listed(other)["candid"]["digest"] == digest


def test_T6_files_that_are_gone_or_changed(open_: Live, tmp_path: Path) -> None:
    put(open_, TWO)
    url, folder = "/v1/steering/profiles/mine/file", tmp_path / "uploads" / "mine"
    assert told(open_.client.get("/v1/steering/profiles/broken/file")) == (503, "profile_unavailable")
    assert told(open_.client.get("/v1/steering/profiles/nothing/file")) == (404, "steering_profile_not_found")
    tensors = (folder / "tensors.safetensors").read_bytes()
    (folder / "tensors.safetensors").unlink()
    assert told(open_.client.get(url)) == (503, "profile_unavailable")
    assert open_.chat(steering="mine").status_code == 200  # from memory, as it was checked
    (folder / "tensors.safetensors").write_bytes(tensors)
    (folder / "pack.json").write_text((folder / "pack.json").read_text().replace("Every", "Any"))
    assert told(open_.client.get(url)) == (503, "profile_unavailable")
