"""`python -m tests.bench.job_beside_chat`: what a calibration beside chats costs them, and how much longer it takes.

One server, one job. Within a round windows take turns: chats alone (the job's process is stopped), both, the job alone.
The job's pace is the processor time it gets, since it does nothing but compute; so ratios are of windows next to each
other, whatever else the machine does. Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.bench.ratios import Goal, median_interval
from tests.bench.servers import Server, unsway

CHAT_KEPT = Goal(0.8)
"""Of the tokens a second without a job."""
JOB_STRETCH = Goal(4.0, at_most=True)
"""Times as long as alone."""
TOKENS = 200
SETTLE = 0.3
"""Seconds before a window in which what was stopped or started comes to its pace."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    told = dict(
        zip(("chat alone", "chat beside", "job beside", "job alone"), asyncio.run(measure(options)), strict=True)
    )
    for name, values in told.items():
        print(f"{name}: {', '.join(f'{value:.2f}' for value in values)}")
    kept = median_interval([b / a for a, b in zip(told["chat alone"], told["chat beside"], strict=True)])
    stretch = median_interval([a / b for a, b in zip(told["job alone"], told["job beside"], strict=True)])
    for name, ratio, goal in (("chat kept", kept, CHAT_KEPT), ("job stretched", stretch, JOB_STRETCH)):
        verdict = goal.verdict(ratio, options.rounds)
        print(f"{name}: {ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}], goal {goal}: {verdict}")
    print(f"{options.clients} clients, load of the machine {', '.join(f'{load:.1f}' for load in os.getloadavg())}")


async def measure(options: argparse.Namespace) -> tuple[list[float], ...]:
    """Of each round: tokens a second of chats alone, then beside the job; processors the job gets then, and alone."""
    chat_alone, chat_beside, job_beside, job_alone = list[float](), list[float](), list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder, unsway("--jobs", f"{folder}/jobs", *options.serve) as server:
        job = calibrating(server)
        for _ in range(options.rounds):
            with stopped(job):
                chat_alone.append(await chats(server.url, options.clients, options.seconds))
            before = processor_time(job)
            chat_beside.append(await chats(server.url, options.clients, options.seconds))
            job_beside.append((processor_time(job) - before) / (options.seconds + SETTLE))
            before = processor_time(job)
            await asyncio.sleep(options.seconds)
            job_alone.append((processor_time(job) - before) / options.seconds)
    return chat_alone, chat_beside, job_beside, job_alone


def calibrating(server: Server) -> int:
    """The process of a calibration that is past its start."""
    body = {"kind": "calibrate", "profile": "bench", "quick": True}
    job = httpx.post(f"{server.url}/v1/steering/jobs", json=body, timeout=60).raise_for_status().json()
    while not httpx.get(f"{server.url}/v1/steering/jobs/{job['id']}", timeout=60).json()["log"]:
        time.sleep(0.2)
    (pid,) = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return int(pid)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def processor_time(pid: int) -> float:
    """Seconds, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def chats(url: str, clients: int, seconds: float) -> float:
    """Tokens a second of so many clients, each of whom asks again when it has its answer."""
    counted = [0] * clients
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:
        talking = [asyncio.create_task(_talk(client, i, counted)) for i in range(clients)]
        await asyncio.sleep(SETTLE)
        before, start = sum(counted), time.perf_counter()
        await asyncio.sleep(seconds)
        rate = (sum(counted) - before) / (time.perf_counter() - start)
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
    return rate


async def _talk(client: httpx.AsyncClient, place: int, counted: list[int]) -> None:
    body: dict[str, Any] = {"prompt": f"What is the capital of France? {place}", "max_tokens": TOKENS}
    body |= {"model": "unsway-organism", "stream": True, "ignore_eos": True, "temperature": 0, "steering": True}
    while True:
        async with client.stream("POST", "/v1/completions", json=body) as reply:
            if reply.status_code != 200:
                raise RuntimeError(f"the server answered {reply.status_code}: {(await reply.aread())[:200]!r}")
            async for line in reply.aiter_lines():
                counted[place] += line.startswith("data: {")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--seconds", type=float, default=5.0, help="of a window")
    options.add_argument("--clients", type=int, default=8)
    options.add_argument(
        "--serve", nargs="*", default=[], type=lambda text: f"--{text}", help="options of the server: threads=2"
    )
    return options


if __name__ == "__main__":
    main()
