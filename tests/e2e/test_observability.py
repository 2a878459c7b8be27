"""Prometheus itself on a server under load: `tests/e2e/install-prometheus` brings it. Rules are tested by promtool."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from server.deploy import dashboard
from tests.bench.servers import Server, unsway
from tests.e2e.soak import one
from tests.e2e.soak_asks import draw

ALERTS = Path(dashboard.__file__).parent / "alerts.yml"
SECONDS = 12.0
"""Of load: several scrapes."""
CLIENTS = 8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: run tests/e2e/install-prometheus"),
]


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_alerts_are_rules_that_fire(tmp_path: Path) -> None:
    assert "8 rules found" in promtool("check", "rules", str(ALERTS))
    cases = Path(__file__).with_name("alerts_test.yml").read_text()
    (tmp_path / "cases.yml").write_text(cases.replace("RULES", str(ALERTS)))
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "cases.yml"))


@contextmanager
def prometheus(server: Server, folder: Path) -> Iterator[httpx.Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = f"""
global: {{scrape_interval: 1s}}
rule_files: ["{ALERTS}"]
scrape_configs: [{{job_name: unsway, static_configs: [{{targets: ["{server.url.removeprefix("http://")}"]}}]}}]
"""
    (folder / "prometheus.yml").write_text(config)
    promtool("check", "config", str(folder / "prometheus.yml"))
    options = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
    ]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(["prometheus", *options], stdout=log, stderr=log) as process,
    ):
        try:
            with httpx.Client(base_url=f"http://{address}", trust_env=False) as client:
                yield client
        finally:
            process.terminate()


async def load(url: str, seconds: float) -> None:
    """All kinds of requests, some of whose clients leave; and one that is sent again."""
    until, indices = time.monotonic() + seconds, iter(range(1_000_000))
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def work() -> None:
            while time.monotonic() < until:
                await one(client, draw(0, next(indices)))

        await asyncio.gather(*(work() for _ in range(CLIENTS)))


def test_every_panel_has_data_under_load(tmp_path: Path) -> None:
    with unsway("--max-rows", "8", "--kv-memory", "8MiB") as server, prometheus(server, tmp_path) as client:
        asyncio.run(load(server.url, SECONDS))
        time.sleep(1.5)  # the last scrape
        empty = {
            f"{panel.title}: {query}"
            for panels in dashboard.ROWS.values()
            for panel in panels
            for query in panel.queries.values()
            if not values(client, query.replace("$__rate_interval", "30s"))
        }
        assert not empty
        assert values(client, 'up{job="unsway"}') == [1.0]


def values(client: httpx.Client, query: str) -> list[float]:
    """Of the series that it finds; 0/0 is none."""
    reply = client.get("/api/v1/query", params={"query": query}).raise_for_status().json()
    assert reply["status"] == "success"
    numbers = [float(series["value"][1]) for series in reply["data"]["result"]]
    return [number for number in numbers if number == number]
