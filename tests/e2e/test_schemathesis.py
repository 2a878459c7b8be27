"""Schemathesis on the whole API of a real server: what the document says is what the server does, in either direction.

`tests/e2e/install-schemathesis FOLDER` brings it; UNSWAY_SCHEMATHESIS names the folder. All operations, all checks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from openapi.export import FILE
from steering.model.loading import load_model
from tests.bench.servers import Server, unsway
from tests.evaluation.fakes import write_data
from tests.models import tiny_hf, tiny_model
from tests.one_file import simple
from tests.server.keyed import EVERYTHING, secret, write_keys
from tests.server.packs import save_packs
from tests.tool_models import tool_tokenizer

HERE = Path(__file__).parent
TOOL = Path(os.environ.get("UNSWAY_SCHEMATHESIS", "/nowhere")) / "bin" / "schemathesis"
EXAMPLES = os.environ.get("UNSWAY_SCHEMATHESIS_EXAMPLES", "15")
"""Of each operation, in fuzzing; of sequences of operations."""
QUICKLY = ("--threads", "1", "--no-fast-linears", "--kv-memory", "64MiB", "--max-rows", "8")
PHASES = ("examples", "coverage", "fuzzing", "stateful")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TOOL.exists(), reason="no Schemathesis: run tests/e2e/install-schemathesis FOLDER"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model that takes tools, its packs, one to upload, questions to evaluate on, a key."""
    folder: Path = tmp_path_factory.mktemp("fuzzed")
    tiny_hf("qwen3", vocab_size=512, max_position_embeddings=2048).save_pretrained(folder / "tiny")
    tool_tokenizer("qwen").save_pretrained(folder / "tiny")
    model = load_model(str(folder / "tiny"), device="cpu")
    save_packs(folder / "packs", model, tiny_model(seed=1))
    for broken in ("alien", "broken"):  # of which 503 is told, rightly: the server was given them
        (folder / "packs" / broken).rename(folder / broken)
    (folder / "mine.safetensors").write_bytes(simple(model, name="mine")[0])
    write_data(folder / "data")
    write_keys(folder / "keys.toml", fuzz=EVERYTHING)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """All routes alive."""
    options = {
        "model": "tiny",
        "packs": "packs",
        "uploads": "uploads",
        "jobs": "jobs",
        "benchmarks": "data",
        "keys": "keys.toml",
    }
    named = [word for name, value in options.items() for word in (f"--{name}", str(folder / value))]
    with unsway(*named, "--served-model-name", "tiny", "--default-profile", "candid", *QUICKLY) as running:
        yield running


def test_the_document_says_what_the_server_does(server: Server, folder: Path) -> None:
    environment = {"MODEL": "tiny", "KEY": secret("fuzz"), "PACK": "mine.safetensors"}
    command = [
        *(TOOL, "--config-file", HERE / "schemathesis.toml", "run", f"{server.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {secret('fuzz')}"),  # the document itself needs a key too
        *("--checks", "all", "--mode", "all", "--phases", ",".join(PHASES), "--max-examples", EXAMPLES),
        *("--no-color", "--generation-database", "none"),
    ]
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py"),
            **{f"UNSWAY_FUZZ_{key}": value for key, value in environment.items()},
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"\n{done.stdout[-20_000:]}\n{done.stderr[-2000:]}"
    print(done.stdout[-3000:])
    count = sum(len(operations) for operations in json.loads(FILE.read_text())["paths"].values())
    assert re.search(rf"Selected: {count}/{count}\n *Tested: {count}\n", done.stdout), "an operation was left out"
    for phase in PHASES:
        assert f"✅ {phase.title()}\n" in done.stdout, f"{phase} was left out"
