"""The process of one job, from the server's side: started modestly, read line by line, ended for certain."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from server.jobs.log import MAX_LINE

GRACE = 5.0
"""Seconds between the signal that asks it to end and the one that does not ask."""
LEFTOVER = 2.0
"""Seconds in which what it wrote last must arrive once it has ended: what it started may hold its output open."""


class Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str]) -> Process:
        """Its standard input stays open as long as this process lives: `server.jobs.child` ends with it."""
        return cls(
            await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=STDOUT, env=_environment(), start_new_session=True
            )
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def lines(self) -> AsyncIterator[list[str]]:
        """What it writes, as many whole lines at a time as have come. Ends when it has ended."""
        ended = asyncio.ensure_future(self._process.wait())
        rest = b""
        try:
            while data := await self._read(ended):
                *whole, rest = (rest + data).split(b"\n")
                rest = rest[-4 * MAX_LINE :]  # a line without end
                yield [line.decode(errors="replace") for line in whole]
            if rest:
                yield [rest.decode(errors="replace")]
        finally:
            ended.cancel()

    async def _read(self, ended: asyncio.Future[int]) -> bytes:
        """Nothing at the end of the output, or soon after the process's."""
        assert self._process.stdout is not None  # noqa: S101  our own pipe
        reading = asyncio.ensure_future(self._process.stdout.read(1 << 16))
        try:
            awaited: set[asyncio.Future[Any]] = {reading, ended}
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await asyncio.wait({reading}, timeout=LEFTOVER)
            return reading.result() if reading.done() else b""
        finally:
            reading.cancel()

    async def wait(self) -> int:
        """Its exit code; minus the signal that ended it."""
        return await self._process.wait()

    async def stop(self) -> None:
        """It and what it started have ended when this returns."""
        self._signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await self._process.wait()
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        await self._process.wait()

    def _signal(self, number: int) -> None:
        """To its whole session, even where it has ended itself."""
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)


def num_threads() -> int:
    """Half of the processors that the server may use, so that one job leaves it the others."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // 2)


def _environment() -> Mapping[str, str]:
    """Without the server's own settings, its key above all: what a job may know stands in its arguments."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("UNSWAY_")}
    threads = str(num_threads())
    return {**inherited, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
