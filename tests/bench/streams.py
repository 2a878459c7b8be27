"""Clients of an OpenAI-compatible server: streamed completions, and when their tokens come."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

WINDOW_START = 20
"""Chunks that a running stream has had before another prompt is sent."""
STREAMS = 4
RETRY = 0.02
"""Seconds."""
BUSY = (409, 503)

Body = Mapping[str, Any]


@dataclass
class Answer:
    """One stream, as it came."""

    times: list[float] = field(default_factory=list)
    """Of its chunks."""
    tokens: int = 0


class Busy(Exception):
    """The server takes no other request at the moment."""


async def stream(client: httpx.AsyncClient, body: Body, answer: Answer) -> None:
    """Asks again where the server is busy: one that takes one at a time makes its clients queue themselves."""
    while True:
        try:
            return await _ask(client, body, answer)
        except Busy:
            answer.times.clear()
            await asyncio.sleep(RETRY)


async def _ask(client: httpx.AsyncClient, body: Body, answer: Answer) -> None:
    async with client.stream("POST", "/v1/completions", json=dict(body)) as response:
        if response.status_code in BUSY:
            raise Busy
        if response.status_code != 200:
            raise RuntimeError(f"a server answered {response.status_code}: {(await response.aread())[:200]!r}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            answer.times.append(time.perf_counter())
            if line.startswith('data: {"error"'):
                error = json.loads(line[6:])["error"]
                raise Busy if isinstance(error, dict) and error.get("code") in BUSY else RuntimeError(str(error)[:200])
            if '"completion_tokens"' in line:
                answer.tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    answer.tokens = answer.tokens or len(answer.times)


def _client(url: str, most: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=most))


def ask_all(url: str, bodies: Sequence[Body]) -> float:
    """All at once, one client each; returns the seconds for as many tokens as were asked for."""

    async def run() -> list[Answer]:
        answers = [Answer() for _ in bodies]
        async with _client(url, len(bodies)) as client:
            await asyncio.gather(*(stream(client, *pair) for pair in zip(bodies, answers, strict=True)))
        return answers

    start = time.perf_counter()
    answers = asyncio.run(run())
    elapsed = time.perf_counter() - start
    return elapsed * sum(body["max_tokens"] for body in bodies) / sum(answer.tokens for answer in answers)


def gaps_while_prefilling(url: str, running: Sequence[Body], prompt: Body) -> tuple[float, float]:
    """(p99 of the gaps between the tokens of running streams while another prompt is read, median of all their gaps),
    seconds."""

    async def run() -> tuple[list[Answer], float, float]:
        answers, last = [Answer() for _ in running], Answer()
        async with _client(url, len(running) + 1) as client:
            tasks = [asyncio.create_task(stream(client, *pair)) for pair in zip(running, answers, strict=True)]
            while any(len(answer.times) < WINDOW_START for answer in answers):
                await asyncio.sleep(0.002)
            start = time.perf_counter()
            await stream(client, prompt, last)
            end = last.times[0]
            await asyncio.gather(*tasks)
        return answers, start, end

    return gap_figures(*asyncio.run(run()))


def gap_figures(answers: Sequence[Answer], start: float, end: float) -> tuple[float, float]:
    """Gaps that touch the window from start to end, against all."""
    pairs = [pair for answer in answers for pair in zip(answer.times, answer.times[1:], strict=False)]
    gaps = np.array([later - earlier for earlier, later in pairs])
    inside = np.array([later > start and earlier < end for earlier, later in pairs])
    return float(np.quantile(gaps[inside], 0.99)), float(np.median(gaps))
