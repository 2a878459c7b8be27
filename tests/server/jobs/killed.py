"""`python -m tests.server.jobs.killed FOLDER KILLS SEED`: jobs under servers that are killed, one after the other.

All is imported once; each server is a fork, so that many can be killed in a minute. Writes what every job came to.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from server.jobs.job import ENDED
from server.jobs.store import JobStore
from server.jobs.supervisor import Jobs
from server.settings import Settings
from tests.server.jobs.kinds import COUNTING, counting

STEPS, PAUSE = 12, 0.02
LONGEST = 0.8
"""Seconds until a kill: some more than a job takes."""


def main(folder: Path, kills: int, rng: random.Random) -> None:
    for _ in range(kills):
        if (server := os.fork()) == 0:
            _serve(folder, till_all_ended=False)
        time.sleep(rng.uniform(0, LONGEST))
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    if (server := os.fork()) == 0:
        _serve(folder, till_all_ended=True)
    os.waitpid(server, 0)
    store = JobStore(folder)
    ended = [store.get(job.id) for job in store.all()]
    found = [[job.state, job.result, job.attempts, _numbers(folder / job.id / "kept")] for job in ended]
    print(json.dumps(found))
    store.close()


def _numbers(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


def _serve(folder: Path, *, till_all_ended: bool) -> NoReturn:
    try:
        asyncio.run(_run(folder, till_all_ended))
    finally:
        os._exit(0)


async def _run(folder: Path, till_all_ended: bool) -> None:
    """One job after the other, each asked for when the last has ended."""
    jobs = Jobs(folder, Settings(), lambda: None, {"count": COUNTING})  # type: ignore[arg-type,return-value]
    jobs._obstacle = lambda asked: None  # type: ignore[method-assign]
    jobs.start()
    while True:
        known = await jobs.list("me")
        if all(job.state in ENDED for job in known):
            if till_all_ended:
                break
            await jobs.submit(counting(STEPS, PAUSE, number=len(known)))
        await asyncio.sleep(0.01)
    await jobs.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3])))
