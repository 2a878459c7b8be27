"""FAULTS C9, H16, U10: one line a request, at its end: routes and numbers, and nothing that anybody wrote."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.logs import JsonFormatter
from server.serving import Served
from tests.server.keyed import bearer, keyed, secret, write_keys
from tests.server.live import HELLO, Live, serve

LOGGER = "unsway.request"
CHAT = "/v1/chat/completions"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, LOGGER):
        yield caplog


def records(log: pytest.LogCaptureFixture, **fields: object) -> list[dict[str, Any]]:
    """As `--log-format json` writes them; those that have these fields."""
    told = [json.loads(JsonFormatter().format(record)) for record in log.records if record.name == LOGGER]
    return [line for line in told if line.items() >= fields.items()]


def last(live: Live, log: pytest.LogCaptureFixture, count: int = 1, **fields: object) -> dict[str, Any]:
    """The line comes after the reply's last byte; on a shared server that of an earlier test may come late."""
    live.wait_until(lambda: len(records(log, **fields)) >= count)
    return records(log, **fields)[-1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ["chat", "complete"])
def test_a_line_says_what_a_request_was_and_took(
    tmp_path: Path, fake: Served, log: pytest.LogCaptureFixture, route: str, stream: bool
) -> None:
    fake.engine.delay = 0.01  # type: ignore[attr-defined]
    with keyed(fake, tmp_path, {"alice": {}}) as server:
        ask = getattr(server.live, route)
        headers = bearer("alice") | {"x-request-id": "mine-1"}
        reply = ask(headers, steering="candid", max_tokens=6, n=2, stream=stream)
        told = last(server.live, log)
        usage = ask(bearer("alice"), steering="candid", max_tokens=6, n=2).json()["usage"]
    assert told["route"] == reply.request.url.path and told["method"] == "POST" and told["status"] == 200
    assert (told["request_id"], told["key"], told["address"]) == ("mine-1", "alice", "127.0.0.1")
    assert told["model"] == "tiny" and told["profile"] == reply.headers["x-steering-profile"]
    assert (told["prompt_tokens"], told["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert told["steered_tokens"] == usage["completion_tokens_details"]["steered_tokens"] > 0
    assert 5 < told["ttft_ms"] < told["duration_ms"] and told["duration_ms"] > 50
    assert not {"disconnected", "code", "path"} & told.keys() and told["level"] == "INFO"


def test_what_was_refused_and_what_was_not_there(tmp_path: Path, fake: Served, log: pytest.LogCaptureFixture) -> None:
    with keyed(fake, tmp_path, {"alice": {}}) as server:
        server.live.chat(bearer("alice"), temperature=9)
        server.live.client.get("/v1/nope?q=1", headers=bearer("alice"))
        server.live.client.get("/metrics", headers=bearer("alice"))
        server.live.chat()
        server.live.client.get("/health/live")
        last(server.live, log, 5)
    wanted = ("route", "path", "status", "code", "key")
    assert [{name: line[name] for name in wanted if name in line} for line in records(log)] == [
        {"route": "/v1/chat/completions", "status": 400, "code": "decimal_above_max_value", "key": "alice"},
        {"path": "/v1/nope", "status": 404, "code": "not_found", "key": "alice"},
        {"route": "/metrics", "status": 403, "code": "insufficient_scope", "key": "alice"},
        {"path": "/v1/chat/completions", "status": 401, "code": "missing_api_key"},
        {"route": "/health/live", "status": 200},
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_in_the_engine(live: Live, log: pytest.LogCaptureFixture, stream: bool) -> None:
    live.chat({"x-request-id": "fails"}, seed=13, stream=stream)
    told = last(live, log, request_id="fails")
    assert (told["status"], told["code"]) == (200 if stream else 500, "numerical_error")


def test_an_error_nobody_thought_of(fake: Served, log: pytest.LogCaptureFixture) -> None:
    with serve(lambda: fake) as live:
        live.app.state.traces = None
        assert live.client.get("/v1/steering/traces/x").status_code == 500
        told = last(live, log)
    assert (told["status"], told["code"]) == (500, "internal_error") and told["request_id"].startswith("req_")


@pytest.mark.parametrize("stream", [False, True])
def test_X1_X4_who_leaves_is_one_line_too(fake: Served, log: pytest.LogCaptureFixture, stream: bool) -> None:
    fake.engine.delay = 0.02  # type: ignore[attr-defined]
    body = {"model": "tiny", "messages": HELLO, "seed": 0, "stream": stream, "max_tokens": 400}
    with serve(lambda: fake) as live:
        with suppress(httpx.ReadTimeout), live.client.stream("POST", CHAT, json=body, timeout=0.3) as reply:
            next(reply.iter_lines())
        told = last(live, log)
        assert live.chat().status_code == 200
        last(live, log, 2)
    assert told["disconnected"] is True and told.get("status") == (200 if stream else None)
    assert told["prompt_tokens"] > 0 and len(records(log)) == 2


@pytest.mark.parametrize(
    "path", ["/v1/a%0A2026 INFO forged", "/v1/%1b[2Jx", "/v1/%E2%80%A8", "/v1/%22,%22a%22:%22b", "/v1/" + "y" * 5000]
)
def test_H16_a_path_forges_no_line(live: Live, log: pytest.LogCaptureFixture, path: str) -> None:
    live.client.get(path, headers={"x-request-id": "a____b@10.0.0.1:80", "user-agent": "x\ty"})
    told = last(live, log, status=404)
    (line,) = (r.getMessage() for r in log.records if r.name == LOGGER and " 404 " in r.getMessage())
    assert line.isascii() and line.isprintable() and len(line) < 500 and "forged" not in line.split()
    assert told["request_id"].startswith("req_") and "@10.0.0.1" not in line and told["status"] == 404


@pytest.mark.parametrize("method", ["FOO", "X" * 5000])
def test_H16_nor_does_a_method(live: Live, log: pytest.LogCaptureFixture, method: str) -> None:
    live.client.request(method, "/v1/models")
    assert last(live, log, status=405)["method"] == method[:16]


def test_other_lines_keep_to_one_line_as_json() -> None:
    record = logging.makeLogRecord({"name": "x", "levelname": "ERROR", "msg": "a\n%s", "args": ("b\u2028",)})
    try:
        raise ValueError("c\nd")
    except ValueError:
        record.exc_info = sys.exc_info()
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1 and json.loads(line)["message"] == "a\nb\u2028"
    assert "ValueError: c\nd" in json.loads(line)["exception"]


MARKS = [f"MARKER{i}" for i in range(16)]


def marked() -> list[dict[str, Any]]:
    """Requests with markers wherever somebody may write something."""
    say = {"role": "user", "content": MARKS[0], "name": MARKS[1]}
    chat = {"messages": [{"role": "system", "content": MARKS[2]}, say], "max_tokens": 3}
    schema = {"type": "object", "properties": {MARKS[4]: {"const": MARKS[5]}}}
    return [
        {**chat, "stop": [MARKS[3]], "user": MARKS[6], "metadata": {"a": MARKS[7]}, "stream": True},
        {**chat, "response_format": {"type": "json_schema", "json_schema": {"name": MARKS[8], "schema": schema}}},
        {**chat, "steering": MARKS[9].lower()},
        {**chat, "model": MARKS[10]},
        {**chat, MARKS[11]: 1},
        {**chat, "logit_bias": {MARKS[12]: 1}},
    ]


@pytest.mark.parametrize("form", ["json", "line"])
def test_C9_U10_a_server_s_output_has_no_prompt_and_no_key(tmp_path: Path, tiny_folder: Path, form: str) -> None:
    """The whole process: what it prints, what it keeps, and what `ps` shows of it."""
    keys, audit = write_keys(tmp_path / "keys.toml", alice={}), tmp_path / "audit.log"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = "import sys; sys.argv[0] = 'unsway'; from server.cli import main; main()"
    options = ["--model", tiny_folder, "--port", port, "--threads", 1, "--kv-memory", "1MiB", "--log-format", form]
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", *map(str, options), "--keys", str(keys), "--audit-log", str(audit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"UNSWAY_API_KEY": "the-single-secret", "HF_HUB_OFFLINE": "1", "TERM": "dumb"},
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            await_ready(client)
            for fields in marked():
                body = {"model": tiny_folder.name} | fields
                client.post("/v1/chat/completions", json=body, headers=bearer("alice")).read()
            client.get(f"/v1/models?q={MARKS[13]}", headers=bearer("alice") | {"user-agent": MARKS[14]})
            client.get("/v1/models", headers={"authorization": f"Bearer {MARKS[15]}"})
            client.get("/metrics", headers={"authorization": "Bearer the-single-secret"})
        commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
        process.terminate()
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    kept = audit.read_text()
    said = out + err + kept + commands
    assert process.returncode == 0 and '"invalid_api_key"' in kept and "unsway" in commands, err
    assert not [mark for mark in MARKS if mark.lower() in said.lower()]
    assert secret("alice") not in said and "the-single-secret" not in said
    lines = [line for line in err.splitlines() if "/v1/chat/completions" in line]
    assert len(lines) == len(marked())
    if form == "json":
        told = [json.loads(line) for line in err.splitlines()]
        answered = [line for line in told if line.get("status") == 200 and line["method"] == "POST"]
        assert len(answered) == 2 and all(line["key"] == "alice" and line["completion_tokens"] for line in answered)
    else:
        assert all(" INFO unsway.request: POST /v1/chat/completions " in line for line in lines)


def await_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if client.get("/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server was never ready")
