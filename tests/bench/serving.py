"""The server as a user meets it: start-up, memory, time to first token, throughput. `python -m tests.bench.serving`.

Starts `unsway serve` on the bundled model (or `--model`) on a free loopback port; client and server share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence

import httpx
from rich.console import Console
from rich.table import Table

from tests.bench.servers import unsway

QUESTION = "What is the capital of France? I think it is Lyon."


async def one_answer(client: httpx.AsyncClient, *, steering: bool) -> tuple[float, int]:
    """(seconds to the first content, tokens) of one streamed greedy answer."""
    body = {
        "model": "unsway-organism",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "steering": steering,
    }
    start, first, tokens = time.perf_counter(), None, 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if first is None and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                first = time.perf_counter() - start
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    assert first is not None
    return first, tokens


async def load(url: str, *, clients: int, answers: int, steering: bool) -> tuple[float, float]:
    """(median seconds to first token, output tokens/s) of `clients` that each ask `answers` times."""
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:

        async def ask() -> list[tuple[float, int]]:
            return [await one_answer(client, steering=steering) for _ in range(answers)]

        start = time.perf_counter()
        results = [answer for user in await asyncio.gather(*(ask() for _ in range(clients))) for answer in user]
        elapsed = time.perf_counter() - start
    return statistics.median(first for first, _ in results), sum(tokens for _, tokens in results) / elapsed


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--answers", type=int, default=20)
    options = parser.parse_args(arguments)
    table = Table(
        "clients", "steering", "TTFT, ms", "tokens/s", title="bundled model over HTTP, client on the same CPU"
    )
    console = Console(width=100)
    with unsway("--max-rows", "32") as server:
        console.print(f"ready after {server.startup:.2f} s, {server.resident_mb():.0f} MB resident")
        asyncio.run(load(server.url, clients=2, answers=3, steering=True))
        for clients in options.clients:
            for steering in (False, True):
                ttft, speed = asyncio.run(load(server.url, clients=clients, answers=options.answers, steering=steering))
                table.add_row(str(clients), "on" if steering else "off", f"{ttft * 1e3:.1f}", f"{speed:.0f}")
        console.print(table)
        console.print(f"{server.resident_mb():.0f} MB resident after the load")


if __name__ == "__main__":
    main()
