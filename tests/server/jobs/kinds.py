"""Jobs of a second: short programs in the place of the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.jobs.job import Asked, Job
from server.jobs.kinds import Kind
from server.jobs.publish import Audit
from server.serving import Served
from server.settings import Settings
from steering.model.loading import LanguageModel

PATH = "/v1/steering/jobs"
EVALUATE: dict[str, Any] = {"kind": "evaluate", "suites": ["answer"], "profiles": ["firm"], "seed": 5}
COUNT = """
import json, os, pathlib, sys, threading, time
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
folder, steps, pause = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
kept = folder / "kept"
done = len(kept.read_text().splitlines()) if kept.exists() else 0
for i in range(done, steps):
    time.sleep(pause)
    with kept.open("a") as file:
        file.write(f"{i * i}\\n")
    told = {"stage": "squares", "done": i + 1, "total": steps, "unit": "numbers", "message": f"{i + 1} squares"}
    print(json.dumps(told), flush=True)
print("all squares are there, in", folder, flush=True)
(folder / "sum").write_text(str(sum(map(int, kept.read_text().split()))))
"""
"""Counts on from where it was. Ends with the server, as `server.jobs.child` does: two at once would count twice."""


def count_command(job: Job, folder: Path, settings: Settings, served: Served) -> list[str]:
    asked = job.asked.parameters
    return [sys.executable, "-c", asked.get("code", COUNT), str(folder), str(asked["steps"]), str(asked["pause"])]


def counted(job: Job, folder: Path, served: Served, audit: Audit) -> Any:
    return {"sum": int((folder / "sum").read_text()), "folder": [str(folder / "sum")]}


def count_memory(parameters: Mapping[str, Any], model: LanguageModel) -> int:
    return int(parameters.get("memory", 1))


COUNTING = Kind(count_command, counted, count_memory)


def seeded(pause: float) -> Kind:
    """In the place of a kind that is asked for over HTTP: counts as many numbers as the job's seed says."""

    def command(job: Job, folder: Path, settings: Settings, served: Served) -> list[str]:
        return [sys.executable, "-c", COUNT, str(folder), str(job.asked.parameters["seed"]), str(pause)]

    return Kind(command, counted, lambda parameters, model: 1)


def counting(steps: int = 5, pause: float = 0.01, owner: str = "me", **others: Any) -> Asked:
    return Asked("count", owner, {"steps": steps, "pause": pause, **others}, "sha256:0")


def total(steps: int) -> int:
    return sum(i * i for i in range(steps))


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
