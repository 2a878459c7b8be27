"""Work for threads: places are held to the end of the work, and not to the end of the wait for it."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import pytest
from anyio import CapacityLimiter

from server.off_the_loop import off_the_loop
from server.routes import chat
from server.serving import Served
from tests.server.live import HELLO, serve


class Counted:
    """How much runs at a time; it ends when it is let."""

    def __init__(self) -> None:
        self.now = self.most = self.begun = 0
        self.go = threading.Event()
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.begun += 1
            self.now += 1
            self.most = max(self.most, self.now)
        self.go.wait(10)
        with self._lock:
            self.now -= 1


async def test_who_leaves_leaves_its_place_when_its_work_ends() -> None:
    work, limiter = Counted(), CapacityLimiter(2)
    asked = [asyncio.ensure_future(off_the_loop(work, limiter)) for _ in range(8)]
    while work.begun < 2:
        await asyncio.sleep(0.01)
    for task in asked:
        task.cancel()
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(error, asyncio.CancelledError) for error in ended)
    later = asyncio.ensure_future(off_the_loop(work, limiter))
    await asyncio.sleep(0.1)
    assert (work.begun, limiter.borrowed_tokens) == (2, 2)
    work.go.set()
    await later
    assert (work.begun, work.most, limiter.borrowed_tokens) == (3, 2, 0)


async def test_what_it_raises_is_raised() -> None:
    limiter = CapacityLimiter(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await off_the_loop(lambda: 1 // 0, limiter)
    assert limiter.borrowed_tokens == 0


def test_clients_that_leave_while_their_requests_are_prepared(fake: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    work, prepare, body = Counted(), chat.prepare, {"model": "tiny", "messages": HELLO}

    def slow(*asked: object) -> object:
        work()
        return prepare(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(chat, "prepare", slow)
    with serve(lambda: fake) as live:
        for _ in range(12):
            with pytest.raises(httpx.TimeoutException):
                httpx.post(f"{live.url}/v1/chat/completions", json=body, timeout=0.05, trust_env=False)
        time.sleep(0.2)
        assert work.most == 2, "MAX_PREPARING"
        work.go.set()
        assert live.chat().status_code == 200
    assert work.most == 2
