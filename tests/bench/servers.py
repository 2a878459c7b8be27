"""Servers as processes of their own: started, waited for, held to one core, stopped for others' turns."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

PATIENCE = 600.0
"""Seconds that a server has to get ready."""


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    url: str
    startup: float
    """Seconds from start to ready."""

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match
        return int(match[1]) / 1024

    def pause(self) -> None:
        """Some never sleep, and would slow down whoever has its turn on the same core."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def unsway(*options: str, core: int | None = None) -> Iterator[Server]:
    """A fresh `unsway serve` on a free loopback port."""
    command = [str(Path(sys.executable).with_name("unsway")), "serve", "--port", "0", *options]
    with started(command, core=core) as server:
        yield server


@contextmanager
def started(
    command: Sequence[str],
    *,
    url: str = "",
    ready: str = "/health/ready",
    core: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """url: where it will listen; if none is given it announces that itself. ready: what it answers with 200 then."""
    start = time.perf_counter()
    one_thread = {} if core is None else {"OMP_NUM_THREADS": "1"}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **one_thread, **(environment or {})}
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL if url else subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # an undrained log would block it
        env=environment,
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        url = url or _announced(process)
        _wait(process, f"{url}{ready}", start)
        yield Server(process, url, time.perf_counter() - start)
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def _announced(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout
    for line in process.stdout:
        if match := re.search(rb"http://127\.0\.0\.1:\d+", line):
            return match[0].decode()
    raise RuntimeError("the server ended before it said where it listens")


def _wait(process: subprocess.Popen[bytes], url: str, start: float) -> None:
    while True:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode} before it was ready")
        if time.perf_counter() - start > PATIENCE:
            raise RuntimeError(f"the server was not ready after {PATIENCE:.0f} s")
        time.sleep(0.05)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def cores() -> tuple[int, int]:
    """(the servers', the client's); the same one where there is no other."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """This thread is held to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
