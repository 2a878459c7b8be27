"""A server with a keys file: what a key may is written down beside the test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from server.caller import SCOPES
from server.key_file import digest_of
from server.serving import Served
from server.settings import Settings
from tests.server.live import Live, serve

Tables = Mapping[str, Mapping[str, Any]]
EVERYTHING = {"scopes": sorted(SCOPES)}


def secret(name: str) -> str:
    return f"secret-of-{name}"


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret(name)}"}


def write_keys(path: Path, **tables: Mapping[str, Any]) -> Path:
    """By name; what is not said of a key: scope chat and no more."""
    whole = {
        name.replace("_", "-"): {"sha256": digest_of(secret(name).encode()).hex(), "scopes": ["chat"], **table}
        for name, table in tables.items()
    }
    path.write_text(tomlkit.dumps({"keys": whole}))
    return path


@dataclass
class Keyed:
    live: Live
    path: Path

    def rewrite(self, **tables: Mapping[str, Any]) -> None:
        write_keys(self.path, **tables)


@contextmanager
def keyed(served: Served, folder: Path, tables: Tables, **settings: Any) -> Iterator[Keyed]:
    path = write_keys(folder / "keys.toml", **tables)
    with serve(lambda: served, Settings(keys=path, **settings)) as live:
        yield Keyed(live, path)
