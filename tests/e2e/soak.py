"""A server under mixed load for long: `python -m tests.e2e.soak [--requests 20000] [--seed 0]`.

Starts `unsway serve` on the bundled model with little memory for keys and values, and asks it all kinds of requests
from many clients at once, of whom three in ten leave. All the while canaries must be answered as at the start; at the
end nothing may be left behind, and memory must not have grown. Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.bench.servers import Server, unsway
from tests.e2e.soak_asks import CHAT, QUESTIONS, TEXT, Ask, draw, wrong_with

OPTIONS = ("--max-rows", "8", "--kv-memory", "8MiB", "--queue", "64", "--trace-seconds", "0")
SLOTS_AT_REST = (256 + 512 + 1024) * 4096
"""Bytes of one slot of each length: they may stay for the next to come."""
EVERY = 50
"""Requests from one canary, and one reading of memory, to the next."""
WARM_UP = 8
"""Clients' worth of requests before anything is compared: what is made once is made by then."""


@dataclass
class Soak:
    """What happened."""

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(kind, how its request ended) -> how often."""
    wrong: list[str] = field(default_factory=list)
    canaries: int = 0
    memory: list[tuple[int, float]] = field(default_factory=list)
    """(requests so far, resident MB of the server, which keeps no traces)"""
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    """What the server holds when it has nothing to do."""
    seconds: float = 0.0

    def slope(self) -> tuple[float, float]:
        """(MB per 1,000 requests, half a 95 % interval) over the second half: least squares."""
        last = self.memory[len(self.memory) // 2 :]
        if len(last) < 3:
            return float("nan"), float("inf")
        x, y = np.array([at for at, _ in last]) / 1000, np.array([mb for _, mb in last])
        (slope, start), spread = np.polyfit(x, y, 1), ((x - x.mean()) ** 2).sum()
        noise = ((y - slope * x - start) ** 2).sum() / (len(last) - 2)
        return float(slope), float(1.96 * np.sqrt(noise / spread))

    @property
    def done(self) -> int:
        return self.ended.total()


async def one(client: httpx.AsyncClient, ask: Ask) -> str:
    """How it ended: `answered`, `refused` or `left`; raises `AssertionError` where that is not as it must be."""
    try:
        async with asyncio.timeout(ask.leaves_after):
            return await _ask(client, ask)
    except TimeoutError:
        return "left"


async def _ask(client: httpx.AsyncClient, ask: Ask) -> str:
    async with client.stream("POST", ask.path, json=ask.body) as reply:
        if ask.code is not None or reply.status_code != 200:
            error = json.loads(await reply.aread())["error"]
            assert (reply.status_code in (400, 404), error["code"]) == (True, ask.code), error
            return "refused"
        if not ask.stream:
            _check(ask, json.loads(await reply.aread())["choices"])
            return "answered"
        frames: list[str] = []
        async for line in reply.aiter_lines():
            frames += [line.removeprefix("data: ")] if line.startswith("data: ") else []
            if ask.leaves_at is not None and len(frames) >= ask.leaves_at:
                return "left"
    _check_stream(ask, frames)
    return "answered"


def _check(ask: Ask, choices: Sequence[dict[str, Any]]) -> None:
    texts = [choice["message"]["content"] if ask.path == CHAT else choice["text"] for choice in choices]
    wrong = wrong_with(ask, texts, [choice["finish_reason"] for choice in choices])
    assert wrong is None, wrong


def _check_stream(ask: Ask, frames: Sequence[str]) -> None:
    """Exactly one end of each answer, then the end of the stream."""
    assert frames and frames[-1] == "[DONE]" and frames.count("[DONE]") == 1, f"the stream ended with {frames[-1:]}"
    texts: dict[int, str] = {}
    ends: dict[int, str] = {}
    for chunk in map(json.loads, frames[:-1]):
        assert "error" not in chunk, chunk
        for choice in chunk["choices"]:
            index = choice["index"]
            assert index not in ends, "an answer went on after its end"
            piece = choice["delta"].get("content", "") if ask.path == CHAT else choice["text"]
            texts[index] = texts.get(index, "") + piece
            if choice["finish_reason"] is not None:
                ends[index] = choice["finish_reason"]
    assert texts.keys() == ends.keys(), "an answer has no end"
    wrong = wrong_with(ask, [texts[i] for i in sorted(texts)], [ends[i] for i in sorted(ends)])
    assert wrong is None, wrong


async def canary(client: httpx.AsyncClient) -> list[object]:
    """Greedy answers, off and on: their text, end, counts and what steering did."""
    found: list[object] = []
    for question in QUESTIONS[:3]:
        for steering in (False, True):
            body = {"model": "unsway-organism", "messages": [{"role": "user", "content": question}], "temperature": 0}
            reply = await client.post(CHAT, json=body | {"max_tokens": 24, "steering": steering})
            choice = reply.raise_for_status().json()["choices"][0]
            receipt = {
                k: v for k, v in choice.get("steering", {}).items() if k != "max_drift"
            }  # its last digit may vary
            found.append((choice["message"]["content"], choice["finish_reason"], receipt, reply.json()["usage"]))
    return found


async def at_rest(client: httpx.AsyncClient, server: Server) -> dict[str, Any]:
    """What the server holds once all that left is gone; waits for that at most ten seconds."""
    for _ in range(200):
        health = (await client.get("/health")).raise_for_status().json()
        if not (health["requests_open"] or health["requests_running"] or health["requests_waiting"]):
            break
        await asyncio.sleep(0.05)
    folder = Path(f"/proc/{server.process.pid}")
    return health | {"files": len(list((folder / "fd").iterdir())), "threads": len(list((folder / "task").iterdir()))}


async def soak(server: Server, *, requests: int, seed: int, clients: int) -> Soak:
    result, indices = Soak(), iter(range(requests))
    async with httpx.AsyncClient(
        base_url=server.url, timeout=300, limits=httpx.Limits(max_connections=clients + 2)
    ) as client:
        await _round(client, Soak(), iter(range(-WARM_UP * clients, 0)), seed, clients)
        await _lengths(client)
        expected = await canary(client)
        result.before = await at_rest(client, server)
        start, ended = time.perf_counter(), asyncio.Event()

        async def watch() -> None:
            seen = -EVERY
            while not ended.is_set():
                if result.done >= seen + EVERY:
                    seen = result.done
                    result.memory.append((seen, server.resident_mb()))
                    result.canaries += 1
                    if await canary(client) != expected:
                        result.wrong.append(f"after {seen} requests a canary was answered otherwise")
                await asyncio.sleep(0.02)

        watcher = asyncio.create_task(watch())
        await _round(client, result, indices, seed, clients)
        ended.set()
        await watcher
        result.seconds = time.perf_counter() - start
        if await canary(client) != expected:
            result.wrong.append("in the end a canary was answered otherwise")
        await _lengths(client)
        result.after = await at_rest(client, server)
    _compare(result, requests)
    return result


async def _round(client: httpx.AsyncClient, result: Soak, indices: Iterator[int], seed: int, clients: int) -> None:
    async def work() -> None:
        for index in indices:
            ask = draw(seed, index)
            try:
                ended = await one(client, ask)
            except (AssertionError, httpx.HTTPError, KeyError, ValueError) as error:
                ended = "wrong"
                result.wrong.append(f"request {index} ({ask.kind}): {type(error).__name__}: {error}")
            result.ended[ask.kind, ended] += 1

    await asyncio.gather(*(work() for _ in range(clients)))


async def _lengths(client: httpx.AsyncClient) -> None:
    """A row of each length, one after the other: what is kept for the next to come is there."""
    for length in (8, 300, 800):
        body = {"model": "unsway-organism", "prompt": list(range(10, 10 + length)), "max_tokens": 1}
        (await client.post(TEXT, json=body)).raise_for_status()


def _compare(result: Soak, requests: int) -> None:
    before, after, wrong = result.before, result.after, result.wrong
    if result.done != requests:
        wrong.append(f"{result.done} of {requests} requests ended")
    for name in ("free_rows", "requests_open", "requests_running", "requests_waiting"):
        if before[name] != after[name]:
            wrong.append(f"{name} was {before[name]} and is {after[name]}")
    slots = after["kv_bytes"] - after["prefix_cache"]["bytes"]
    if slots > SLOTS_AT_REST:
        wrong.append(f"slots of keys and values take {slots} bytes where nothing runs")
    if after["kv_bytes"] > after["kv_budget"]:
        wrong.append("keys and values take more than their budget")
    if after["files"] > before["files"] + 2:
        wrong.append(f"{after['files']} open files, and there were {before['files']}")


def table(result: Soak) -> Table:
    shown = Table("kind", "answered", "left", "refused", "wrong", title=f"{result.done} requests", title_justify="left")
    for kind in sorted({kind for kind, _ in result.ended}):
        shown.add_row(kind, *(str(result.ended[kind, how]) for how in ("answered", "left", "refused", "wrong")))
    return shown


def lines(result: Soak) -> Iterator[str]:
    before, after = result.before, result.after
    (slope, half), mb = result.slope(), [mb for _, mb in result.memory]
    left = sum(count for (_, how), count in result.ended.items() if how == "left")
    yield f"{result.seconds:.0f} s; {left / max(1, result.done):.0%} left before their end"
    yield f"canaries: {result.canaries} times 6, each as at the start"
    grown = f"{slope:+.3f} ± {half:.3f} MB per 1,000 requests"
    yield f"memory: {mb[0]:.0f} to {mb[-1]:.0f} MB; second half {grown}"
    for name in ("free_rows", "kv_bytes", "files", "threads"):
        yield f"{name}: {before[name]} before, {after[name]} after"
    yield f"prefix cache: {after['prefix_cache']['hits']} of {after['prefix_cache']['queries']} tokens found"
    yield f"preemptions: {after['preemptions']}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--limit", type=float, default=0.1, help="MB per 1,000 requests that memory may grow by")
    options = parser.parse_args(arguments)
    console = Console(width=100, highlight=False)
    with unsway(*OPTIONS) as server:
        run = soak(server, requests=options.requests, seed=options.seed, clients=options.clients)
        result = asyncio.run(run)
    slope, half = result.slope()
    if slope - half > options.limit:
        result.wrong.append("memory grows")
    console.print(table(result))
    for line in lines(result):
        console.print(line)
    for line in result.wrong[:20]:
        console.print(f"WRONG: {line}", markup=False)
    sys.exit(bool(result.wrong))


if __name__ == "__main__":
    main()
