"""A server that profiles can be uploaded to, and what is sent to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from server.serving import Served
from server.settings import Settings
from steering.pack_folder import PackFolder
from steering.store import PackStore
from steering.uploads import Quota, Uploads
from tests.models import tiny_model
from tests.one_file import full, simple
from tests.server.live import Live, serve

MODEL = replace(tiny_model(), name="tiny")
ONE, ONE_DIGEST = simple(MODEL)
TWO, TWO_DIGEST = full(MODEL)
AMPLE = Quota(packs=100, size=2**30, packs_each=100, size_each=2**30)


def with_uploads(
    folder: Path, engine: Any, *, packs: Path | None = None, default: str | None = None, quota: Quota = AMPLE
) -> Served:
    """What `server.serving.load` puts together, around another engine."""
    locked, model = PackFolder(folder), MODEL
    store = PackStore(packs, model)
    return Served(model, engine, store, default, 1, Uploads(locked, store, model, quota))


@contextmanager
def serving(served: Served, **settings: Any) -> Iterator[Live]:
    with serve(lambda: served, Settings(**settings)) as live:
        yield live


def put(live: Live, raw: bytes, name: str = "mine", **headers: str) -> httpx.Response:
    """headers: with _ for -."""
    spelt = {key.replace("_", "-"): value for key, value in headers.items()}
    return live.client.put(f"/v1/steering/profiles/{name}", content=raw, headers=spelt)


def etag(digest: str) -> str:
    return f'"{digest}"'


def told(reply: httpx.Response) -> tuple[int, str]:
    """(status, code)"""
    return reply.status_code, reply.json()["error"]["code"]


def listed(live: Live) -> dict[str, Any]:
    return {one["name"]: one for one in live.client.get("/v1/steering/profiles").json()["data"]}
