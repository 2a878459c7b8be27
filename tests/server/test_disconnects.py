"""FAULTS X1-X4: a client that leaves frees its slot within one step, and nobody else notices."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server.serving import Served
from tests.server.fake_engine import FakeEngine
from tests.server.live import HELLO, Live, serve

STEP = 0.03
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: [::1]\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


@pytest.fixture
def slow(fake: Served) -> Iterator[Live]:
    """A server whose engine takes 30 ms a step; seed 0 runs until the context is full."""
    fake.engine.delay = STEP  # type: ignore[attr-defined]
    with serve(lambda: fake) as live:
        yield live


def engine_of(live: Live) -> FakeEngine:
    return live.served.engine  # type: ignore[return-value]


@contextmanager
def connection(live: Live, *, stream: bool) -> Iterator[socket.socket]:
    """A client that has sent an endless request."""
    body = json.dumps({"model": "tiny", "messages": HELLO, "seed": 0, "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", live.port)) as client:
        client.sendall(HEAD % len(body) + body)
        live.wait_until(lambda: engine_of(live).num_running == 1)
        yield client


def frees_its_slot(live: Live) -> None:
    """Within a few steps; the standing canary answers as ever."""
    steps = engine_of(live).steps
    live.wait_until(lambda: engine_of(live).num_running == 0 and live.engine.num_open == 0)
    assert engine_of(live).steps - steps <= 4
    assert len(engine_of(live).aborted) == 1
    assert live.chat().json()["choices"][0]["message"]["content"] == "Hello there"


def read_events(client: socket.socket, count: int) -> None:
    received = b""
    while received.count(b"data: ") < count:
        received += client.recv(65536)


@pytest.mark.parametrize("events", [0, 1, 50])
def test_X1_the_client_of_a_stream_leaves(slow: Live, events: int) -> None:
    with connection(slow, stream=True) as client:
        read_events(client, events)
    frees_its_slot(slow)


def test_X2_a_reset_instead_of_a_close(slow: Live) -> None:
    with connection(slow, stream=True) as client:
        read_events(client, 3)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    frees_its_slot(slow)


@pytest.mark.parametrize("stream", [True, False])
def test_X3_a_half_closed_connection_counts_as_left(slow: Live, stream: bool) -> None:
    with connection(slow, stream=stream) as client:
        client.shutdown(socket.SHUT_WR)
        frees_its_slot(slow)


def test_X4_the_client_of_a_whole_reply_leaves(slow: Live) -> None:
    with connection(slow, stream=False):
        pass
    frees_its_slot(slow)


def test_X4_the_client_leaves_before_its_body_is_complete(slow: Live, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", slow.port)) as client:
        client.sendall(HEAD % 99 + b"{")
    assert slow.chat().status_code == 200
    assert not [record for record in caplog.records if record.exc_info]


def test_the_others_of_a_batch_go_on(slow: Live) -> None:
    with connection(slow, stream=True) as client:
        read_events(client, 1)
        with slow.client.stream(
            "POST", "/v1/chat/completions", json={"model": "tiny", "messages": HELLO, "seed": 1, "stream": True}
        ) as other:
            lines = other.iter_lines()
            first = next(line for line in lines if line)
            client.close()
            rest = [line for line in lines if line]
    text = "".join(
        json.loads(line[6:])["choices"][0]["delta"].get("content", "")
        for line in [first, *rest]
        if line != "data: [DONE]"
    )
    assert text == "Hello there"
    frees_its_slot(slow)
