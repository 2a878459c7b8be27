"""L4, with real kills: `unsway serve` is killed in the midst of uploads, again and again, and starts again whole."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from steering.model.loading import BUNDLED, load_model
from steering.pack import load_pack
from steering.store import BUNDLED_PACKS
from tests.bench.servers import started
from tests.one_file import raw_of

ROUNDS = int(os.environ.get("UNSWAY_KILLS", "10"))
PROFILE = "/v1/steering/profiles/mine"
COMMAND = [sys.executable, "-c", "from server.cli import main; main()", "serve", "--port", "0", "--threads", "1"]


def replace_forever(url: str, files: dict[str, bytes], ended: threading.Event) -> None:
    """One version after the other, each in place of the one that is there, as fast as it goes."""
    profile = f"{url}{PROFILE}"
    with httpx.Client(timeout=10, trust_env=False) as client:
        while not ended.is_set():
            try:
                digest = client.get(profile).json()["digest"]
                after = next(version for version in files if version != digest)
                client.put(profile, content=files[after], headers={"if-match": f'"{digest}"'})
            except httpx.HTTPError:
                time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_L4_killed_in_the_midst_of_uploads(tmp_path: Path) -> None:
    pack = load_pack(BUNDLED_PACKS / "candid", load_model(BUNDLED, device="cpu"))
    large = "# " + "x" * 300_000  # takes a while to write
    versions = [raw_of(replace(pack, name="mine", card=f"{large}\n{number}")) for number in range(2)]
    files = {digest: raw for raw, digest in versions}
    draw, folder, seen, halfway = random.Random(4), tmp_path / "uploads", set[str](), 0
    for number in range(ROUNDS + 1):
        with started([*COMMAND, "--uploads", str(folder)]) as server:
            if number == 0:
                first = httpx.put(f"{server.url}{PROFILE}", content=versions[0][0], trust_env=False)
                assert first.status_code == 201
            assert sorted(path.name for path in folder.iterdir()) == [".lock", "mine"]
            digest = httpx.get(f"{server.url}{PROFILE}", trust_env=False).json()["digest"]
            assert httpx.get(f"{server.url}{PROFILE}/file", trust_env=False).content == files[digest]
            seen.add(digest)
            if number == ROUNDS:
                break
            ended = threading.Event()
            client = threading.Thread(target=replace_forever, args=(server.url, files, ended))
            client.start()
            time.sleep(draw.uniform(0.05, 0.5))
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            ended.set()
            client.join(20)
        halfway += any(name != ".lock" and name.startswith(".") for name in (path.name for path in folder.iterdir()))
    assert seen == set(files) and halfway >= ROUNDS // 10, f"{halfway} kills of {ROUNDS} hit an upload"
