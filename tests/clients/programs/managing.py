"""unsway-client's profiles and jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cells import addresses, run

from unsway_client import UnswayOpenAI

AT = addresses()
client = UnswayOpenAI(base_url=AT["managed"])


def profiles() -> list[list[str]]:
    client.profiles.upload("steady", Path(AT["pack"]))
    client.profiles.upload("steady", client.profiles.file("steady"), if_match="*")
    there = [profile["name"] for profile in client.profiles.list()]
    client.profiles.delete("steady")
    return [there, [profile["name"] for profile in client.profiles.list()]]


def jobs() -> dict[str, Any]:
    job = client.jobs.create(kind="evaluate", suites=["answer"], seed=4)
    events = list(client.jobs.events(job["id"]))
    rest = list(client.jobs.events(job["id"], after=events[0]["id"]))
    return {"last": events[-1], "rest": rest == events[1:], "forgotten": client.jobs.cancel(job["id"])}


run(profiles=profiles, jobs=jobs)
