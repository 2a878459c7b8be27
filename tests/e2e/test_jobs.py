"""Jobs of a real server that is killed at random moments: they go on, and come to the numbers of an unbroken run."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bench.servers import Server, unsway
from tests.evaluation.fakes import biography, write_data, write_jsonl
from tests.models import byte_tokenizer, tiny_hf

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]

KILLS = int(os.environ.get("UNSWAY_KILLS", "10"))
PATH = "/v1/steering/jobs"
JOB = {"kind": "evaluate", "suites": ["nlp", "perplexity"], "system": "Be brief.", "seed": 1}
QUICKLY = ("--threads", "1", "--no-fast-linears", "--context", "2048", "--kv-memory", "64MiB", "--job-niceness", "0")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Of a server of a small random model, with questions for more than one wave a suite."""
    folder: Path = tmp_path_factory.mktemp("killed")
    tiny_hf(max_position_embeddings=2048).save_pretrained(folder / "tiny")
    byte_tokenizer().save_pretrained(folder / "tiny")
    data = write_data(folder / "data")
    rows = [biography("nlp", f"I am {i}.", "Is it so?", ("yes", "no"), (" (A)", " (B)")[i % 2]) for i in range(40)]
    write_jsonl(data / "perez" / "sycophancy_on_nlp_survey.jsonl", rows)
    return ("--model", str(folder / "tiny"), "--benchmarks", str(data), *QUICKLY)


def started(server: Server) -> str:
    reply = httpx.post(f"{server.url}{PATH}", json=JOB, timeout=60)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["id"])


def document(server: Server, job_id: str) -> dict[str, Any]:
    told: dict[str, Any] = httpx.get(f"{server.url}{PATH}/{job_id}", timeout=60).json()
    return told


def ended(server: Server, job_id: str) -> dict[str, Any]:
    """The job at its end; its stream ends exactly once."""
    text = httpx.get(f"{server.url}{PATH}/{job_id}/events", timeout=900).text
    assert re.findall(r"^event: (end|error)$", text, re.MULTILINE) == ["end"]
    told = document(server, job_id)
    assert told["state"] == "completed", told
    return told


def children(folder: Path) -> list[str]:
    found = subprocess.run(
        ["pgrep", "-f", f"server.jobs.child .*{folder}"], capture_output=True, text=True, check=False
    )
    return found.stdout.split()


def test_L5_L6_L14_killed_at_random_moments(options: tuple[str, ...], tmp_path: Path) -> None:
    with unsway("--jobs", str(tmp_path / "whole"), *options) as server:
        whole = ended(server, started(server))
    took = whole["ended"] - whole["started"] + 1
    folder, rng = tmp_path / "killed", random.Random(20)
    job_id, kills, attempts, finished = "", 0, list[int](), list[dict[str, Any]]()
    while kills < KILLS:
        with unsway("--jobs", str(folder), *options) as server:
            if job_id and document(server, job_id)["state"] == "completed":
                finished.append(ended(server, job_id))
                assert httpx.delete(f"{server.url}{PATH}/{job_id}", timeout=60).json()["deleted"] is True
                job_id = ""
            job_id = job_id or started(server)
            time.sleep(rng.uniform(0, took))
            attempts.append(document(server, job_id)["attempts"])
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            kills += 1
            until = time.monotonic() + 5
            while children(folder):
                assert time.monotonic() < until, "a job outlives its server"
                time.sleep(0.05)
    with unsway("--jobs", str(folder), *options) as server:
        finished.append(ended(server, job_id))
    print(f"{kills} kills, {len(finished)} jobs, attempts {[job['attempts'] for job in finished]}, {took} s each")
    assert max(attempts) > 1, "none was interrupted"
    assert all(job["result"] == whole["result"] for job in finished)
    assert sum(job["attempts"] for job in finished) <= kills + len(finished)


def test_a_server_that_is_asked_to_end_leaves_a_job_for_the_next(options: tuple[str, ...], tmp_path: Path) -> None:
    with unsway("--jobs", str(tmp_path), *options) as server:
        job_id = started(server)
        while document(server, job_id).get("progress", {}).get("done", 0) == 0:
            time.sleep(0.1)
        start = time.monotonic()
        server.process.terminate()
        assert server.process.wait(30) == 0 and time.monotonic() - start < 20 and not children(tmp_path)
    with unsway("--jobs", str(tmp_path), *options) as server:
        done = ended(server, job_id)
        assert done["attempts"] == 2
