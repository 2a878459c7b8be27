"""The Dockerfile without Docker: its steps in a folder that stands for the root, then its start and its health check.

What needs the base image is not run, and listed: `useradd`. Paths under `ROOTED` are moved below the temporary root.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOTED = re.compile(r"(?<![\w.])/(?=opt/|home/|source\b)")
NOT_RUN = ("useradd",)
KEY = "a key"


def instructions() -> list[tuple[str, str]]:
    """(name, argument) of each, continued lines joined."""
    text = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line and not line.startswith("#")]


@dataclass
class Image:
    """What the instructions leave behind."""

    root: Path
    environment: dict[str, str]
    workdir: str = "/"
    user: str = "root"
    last: dict[str, str] = field(default_factory=dict)
    """HEALTHCHECK, ENTRYPOINT and CMD as they were last given."""
    not_run: list[str] = field(default_factory=list)

    def moved(self, text: str) -> str:
        return ROOTED.sub(f"{self.root}/", text)

    @property
    def folder(self) -> Path:
        folder = Path(self.moved(f"{self.workdir}/"))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run(self, command: str) -> None:
        if command.split()[0] in NOT_RUN:
            self.not_run.append(command)
            return
        subprocess.run(["sh", "-c", self.moved(command)], cwd=self.folder, env=self.environment, check=True)

    def copy(self, argument: str) -> None:
        if argument.startswith("--from="):  # of an earlier stage: it is in this root already, at the same path
            _, source, target = argument.split()
            assert source == target and Path(self.moved(source)).is_dir()
            return
        *sources, target = argument.split()
        for source in sources:
            path = REPOSITORY / source
            assert not ignored(source), source
            place = self.folder / target if path.is_dir() else self.folder / target / source
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, place)  # type: ignore[operator]

    def set(self, argument: str) -> None:
        for pair in shlex.split(argument):
            name, _, value = pair.partition("=")
            self.environment[name] = self.moved(value).replace("$PATH", self.environment["PATH"])


def ignored(name: str) -> bool:
    """By .dockerignore, where the last pattern that fits decides."""
    verdict = False
    for line in (REPOSITORY / ".dockerignore").read_text().split():
        if fnmatch(name, line.removeprefix("!")):
            verdict = not line.startswith("!")
    return verdict


def build(root: Path) -> Image:
    """TORCH_INDEX is empty: the index that pip is configured with."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("UNSWAY_", "PYTHON"))}
    image = Image(root, settings | {"PATH": path, "XDG_CONFIG_HOME": str(root), "TORCH_INDEX": ""})
    for name, argument in instructions():
        match name:
            case "RUN":
                image.run(argument)
            case "COPY":
                image.copy(argument)
            case "ENV":
                image.set(argument)
            case "WORKDIR":
                image.workdir = argument
            case "USER":
                image.user = argument
            case "HEALTHCHECK" | "ENTRYPOINT" | "CMD":
                image.last[name] = argument.partition("CMD ")[2] if name == "HEALTHCHECK" else argument
            case "FROM" | "ARG" | "EXPOSE":
                pass
            case _:
                raise AssertionError(f"{name} is not played here")
    return image


def status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as reply:  # noqa: S310
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_what_is_copied_is_not_ignored() -> None:
    sources = [
        s
        for name, argument in instructions()
        if name == "COPY" and "--from" not in argument
        for s in argument.split()[:-1]
    ]
    assert {"steering", "server", "pyproject.toml"} <= set(sources)
    assert not [source for source in sources if ignored(source) or not (REPOSITORY / source).exists()]
    assert ignored(".git") and ignored("tests") and ignored(".venv")


def test_the_image_is_not_run_by_root() -> None:
    names = [name for name, _ in instructions()]
    assert dict(instructions())["USER"] == "unsway" and names.index("USER") < names.index("ENTRYPOINT")


@pytest.mark.slow
def test_build_start_and_health_check(tmp_path: Path) -> None:
    image = build(tmp_path)
    assert [command.split()[0] for command in image.not_run] == ["useradd"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = json.loads(image.last["ENTRYPOINT"]) + json.loads(image.last["CMD"])
    program = shutil.which(command[0], path=image.environment["PATH"])
    assert program is not None and Path(program).is_relative_to(tmp_path)
    environment = image.environment | {"UNSWAY_PORT": str(port)}

    keyless = subprocess.run([program, *command[1:]], cwd=image.folder, env=environment, capture_output=True, text=True)
    assert keyless.returncode == 2 and "UNSWAY_API_KEY" in keyless.stderr

    def healthy() -> bool:
        check = json.loads(image.last["HEALTHCHECK"])
        python = shutil.which(check[0], path=environment["PATH"])
        assert python is not None and Path(python).is_relative_to(tmp_path)
        return subprocess.run([python, *check[1:]], env=environment, capture_output=True).returncode == 0

    assert not healthy()
    process = subprocess.Popen([program, *command[1:]], cwd=image.folder, env=environment | {"UNSWAY_API_KEY": KEY})
    try:
        deadline = time.monotonic() + 120
        while not healthy():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        models = f"http://127.0.0.1:{port}/v1/models"
        assert status(models) == 401 and status(models, authorization=f"Bearer {KEY}") == 200
    finally:
        process.terminate()
        assert process.wait(30) == 0
