"""The audit log: who did or was refused what, a line of JSON each, and no secret (FAULTS U10, H16)."""

from __future__ import annotations

import json
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from starlette.requests import Request

from server.audit import AuditLog, audit
from server.serving import Served
from server.settings import BadSettings, Settings
from tests.server.keyed import EVERYTHING, bearer, keyed
from tests.server.live import serve


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_refusals_that_matter_are_kept(tmp_path: Path, fake: Served) -> None:
    log = tmp_path / "audit.log"
    tables = {"alice": {"scopes": ["chat"], "steering": "candid", "policy": {"may_switch_off": False}}}
    with keyed(fake, tmp_path, tables, audit_log=log) as server:
        live, named = server.live, {"x-request-id": "mine"}
        assert live.chat(bearer("alice") | named).status_code == 200
        assert live.chat().status_code == 401
        assert live.chat(bearer("alice"), temperature=9).status_code == 400
        assert lines(log) == []
        live.client.get("/metrics", headers=bearer("alice") | named)
        live.chat(bearer("alice") | named, steering=False)
        live.chat(bearer("wrong") | named)
        live.client.get("/v1/no?secret=1", headers=bearer("wrong") | named)
    told = [{key: value for key, value in line.items() if key != "time"} for line in lines(log)]
    who = {"action": "access_denied", "request_id": "mine", "address": "127.0.0.1"}
    assert told == [
        who | {"key": "alice", "code": "insufficient_scope", "method": "GET", "route": "/metrics"},
        who | {"key": "alice", "code": "steering_policy", "method": "POST", "route": "/v1/chat/completions"},
        who | {"key": None, "code": "invalid_api_key", "method": "POST", "path": "/v1/chat/completions"},
        who | {"key": None, "code": "invalid_api_key", "method": "GET", "path": "/v1/no"},
    ]
    assert all(line["time"].endswith("+00:00") for line in lines(log))
    assert log.stat().st_mode & 0o777 == 0o600


def test_changes_of_the_keys_are_kept(tmp_path: Path, fake: Served) -> None:
    log = tmp_path / "audit.log"
    with keyed(fake, tmp_path, {"alice": EVERYTHING}, audit_log=log, api_key="k") as server:
        server.rewrite(alice=EVERYTHING, bob={})
        server.live.chat(bearer("bob"))
        server.path.write_text("[")
        server.live.chat(bearer("bob"))
    reloaded, kept = lines(log)
    assert (reloaded["action"], reloaded["keys"]) == ("keys_reloaded", 3)
    assert not {"key", "address", "request_id"} & (reloaded.keys() | kept.keys()), "no request did it"
    assert (kept["action"], kept["keys"]) == ("keys_not_reloaded", 3) and "not a TOML file" in kept["reason"]


def test_a_flood_of_guesses_is_a_few_lines(tmp_path: Path, fake: Served) -> None:
    log = tmp_path / "audit.log"
    with keyed(fake, tmp_path, {}, audit_log=log) as server:
        for i in range(200):
            server.live.client.get("/v1/me", headers={"authorization": f"Bearer guess-{i}"})
    assert 20 <= len(lines(log)) <= 30


@pytest.mark.parametrize(
    "path", ["/v1/a%0A%7B%22action%22:%22key_made%22%7D", "/%1b[2J", "/%E2%80%A8", "/" + "x" * 9000]
)
def test_H16_nothing_forges_a_line(tmp_path: Path, fake: Served, path: str) -> None:
    log = tmp_path / "audit.log"
    with keyed(fake, tmp_path, {}, audit_log=log) as server:
        server.live.client.get(path, headers=bearer("wrong") | {"x-request-id": "a\tb"})
    (line,) = lines(log)
    assert line["action"] == "access_denied" and log.read_text().isascii() and len(log.read_text()) < 600
    assert log.read_text()[:-1].isprintable()


def test_a_route_writes_what_it_did(tmp_path: Path, fake: Served) -> None:
    """The function that routes call, as they call it."""
    log, router = tmp_path / "audit.log", APIRouter()

    async def put(name: str, request: Request) -> None:
        audit(request.scope, "profile_put", profile=name, size=7, created=True)

    router.add_api_route("/v1/steering/profiles/{name}/part", put, methods=["PUT"])
    with keyed(fake, tmp_path, {"alice": {"scopes": ["profiles"]}, "bob": {}}, audit_log=log) as server:
        server.live.app.include_router(router)
        ask = partial(server.live.client.put, "/v1/steering/profiles/mine/part")
        assert ask(headers=bearer("alice") | {"x-request-id": "r1"}).status_code == 200
        assert ask(headers=bearer("bob")).status_code == 403
    done, refused = lines(log)
    assert {key: value for key, value in done.items() if key != "time"} == {
        "action": "profile_put",
        "key": "alice",
        "request_id": "r1",
        "address": "127.0.0.1",
        "profile": "mine",
        "size": 7,
        "created": True,
    }
    assert (refused["action"], refused["key"]) == ("access_denied", "bob")


def test_a_log_that_is_moved_away_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = AuditLog(path)
    log.write("one")
    path.rename(tmp_path / "audit.log.1")
    log.write("two")
    assert [line["action"] for line in lines(path)] == ["two"]
    path.unlink()
    path.mkdir()
    log.write("lost, and nothing breaks")
    path.rmdir()
    log.write("three")
    log.close()
    assert [line["action"] for line in lines(path)] == ["three"]
    assert [line["action"] for line in lines(tmp_path / "audit.log.1")] == ["one"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_L7_a_full_disk_stops_no_request(fake: Served, caplog: pytest.LogCaptureFixture) -> None:
    with serve(lambda: fake, Settings(api_key="k", audit_log=Path("/dev/full"))) as live:
        assert live.chat(bearer("wrong")).status_code == 401
        assert live.chat({"authorization": "Bearer k"}).status_code == 200
    (record,) = caplog.records
    assert "cannot be written (No space left on device); lost: {" in record.getMessage()


def test_L13_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"--audit-log .* cannot be written"):
        AuditLog(tmp_path / "none" / "audit.log")


def test_without_the_setting_nothing_is_written(tmp_path: Path, fake: Served) -> None:
    with keyed(fake, tmp_path, {}) as server:
        assert server.live.chat(bearer("wrong")).status_code == 401
    assert [path.name for path in tmp_path.iterdir()] == ["keys.toml"]


def test_L7_a_line_torn_by_a_full_disk_spoils_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(FileIO):
        room = 1 << 20

        def write(self, raw: bytes) -> int:  # type: ignore[override]
            return super().write(raw[: self.room])

    path = tmp_path / "audit.log"
    log = AuditLog(path)
    log.close()
    log._file = full = Full(path, "a")
    log.write("one")
    full.room = 20
    log.write("two")
    full.room = 1 << 20
    log.write("three")
    log.write("four")
    log.close()
    one, torn, three, four = path.read_text().splitlines()
    assert [json.loads(line)["action"] for line in (one, three, four)] == ["one", "three", "four"] and len(torn) == 20
    (record,) = caplog.records
    assert "lost: {" in record.getMessage() and '"two"' in record.getMessage()
