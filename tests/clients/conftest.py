from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from server.jobs.kinds import KINDS
from server.serving import Served, load
from server.settings import Settings
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.store import PackStore
from tests.clients.servers import proxying, refusing, serving
from tests.evaluation.fakes import write_data
from tests.models import tiny_model
from tests.python_client.test_profiles import packed
from tests.server.fake_engine import FakeEngine
from tests.server.jobs.kinds import seeded
from tests.server.live import Live, serve
from tests.server.packs import save_packs
from tests.tool_models import tool_model

PROGRAMS = Path(__file__).parent / "programs"
ROOT = Path(__file__).parents[2]
FOLDER = "UNSWAY_CLIENTS"
"""Environment variable: the folder that install-clients made."""


def environment() -> dict[str, str]:
    """Without variables that would tell a client, or our server, something else; with our own client to import."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "UNSWAY_", "LITELLM_"))}
    return kept | {"PYTHONPATH": str(ROOT / "clients" / "python"), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


@pytest.fixture(scope="session")
def folder() -> Path:
    return Path(os.environ[FOLDER])


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    """The bundled model."""
    with serve(partial(load, Settings())) as live:
        yield live


@pytest.fixture(scope="session")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A real server whose engine says the prompt again; with seed 13 it fails after three tokens."""
    model, directory = replace(tiny_model(), name="tiny"), tmp_path_factory.mktemp("packs")
    save_packs(directory, model, tiny_model(seed=1))
    engine = FakeEngine(model, EngineConfig(max_rows=4), error_at={13: 3})
    served = Served(model, engine, PackStore(directory, model), "candid", 1)  # type: ignore[arg-type]
    with serve(lambda: served) as live:
        yield live


@pytest.fixture(scope="session")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The bundled model, with uploads, and jobs that count; and a pack to upload, `steady`."""
    folder = tmp_path_factory.mktemp("managed")
    settings = Settings(uploads=folder / "uploads", jobs=folder / "jobs", benchmarks=write_data(folder / "data"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(KINDS, "evaluate", seeded(0.05))  # type: ignore[misc]
        with serve(partial(load, settings), settings) as live:
            pack = folder / "steady.safetensors"
            pack.write_bytes(packed(live, "steady", folder))
            yield {"managed": f"{live.url}/v1", "pack": str(pack)}


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tiny random model whose template has tools."""
    model = replace(tool_model("qwen"), name="tiny")
    store = PackStore(tmp_path_factory.mktemp("none"), model)
    served = Served(model, Engine(model, EngineConfig(max_rows=4)), store, default_profile=None, created=1)
    with serve(lambda: served) as live:
        yield f"{live.url}/v1"


@dataclass
class Matrix:
    """Runs each program once in each environment."""

    folder: Path
    addresses: Callable[[str], dict[str, str]]
    counts: Counter[tuple[str, str]]
    found: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def cell(self, client: str, program: str, name: str) -> Any:
        """What `program`, run in the environment of `client`, found out in the cell `name`."""
        if (client, program) not in self.found:
            self.found[client, program] = self._run(client, program)
        told = self.found[client, program][name]
        assert "unexpected" not in told, told["unexpected"]
        return told["value"]

    def _run(self, client: str, program: str) -> dict[str, Any]:
        python = self.folder / client / "bin" / "python"
        command = [python, PROGRAMS / program, json.dumps(self.addresses(client))]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


@pytest.fixture(scope="session")
def matrix(folder: Path, live: Live, echo: Live, tools: str, managed: dict[str, str]) -> Iterator[Matrix]:
    counts: Counter[tuple[str, str]] = Counter()
    with serving(refusing(counts)) as faults, serving(proxying(f"{echo.url}/v1")) as proxy:

        def addresses(client: str) -> dict[str, str]:
            return {
                "live": f"{live.url}/v1",
                "echo": f"{echo.url}/v1",
                "faults": f"{faults}/{client}/v1",
                "proxy": proxy,
                "tools": tools,
                **managed,
            }

        yield Matrix(folder, addresses, counts)
