"""A new environment, `pip install .`, `unsway serve`: as on a fresh laptop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRACKED = ("steering", "server", "pyproject.toml", "README.md", "LICENSE")


@pytest.mark.slow
def test_install_and_serve_from_a_new_environment(tmp_path: Path) -> None:
    source, venv, elsewhere = tmp_path / "source", tmp_path / "venv", tmp_path / "elsewhere"
    source.mkdir()
    for name in TRACKED:
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / name)  # type: ignore[operator]
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    subprocess.run([*pip, torch], check=True)
    subprocess.run([*pip, str(source)], check=True)

    # Names that a user's own folder may well hold must not shadow ours.
    elsewhere.mkdir()
    for name in ("server.py", "steering.py"):
        (elsewhere / name).write_text("raise SystemExit('the wrong module')\n")
    command = [str(venv / "bin" / "unsway"), "serve", "--port", "0"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"COLUMNS": "200"}
    with subprocess.Popen(command, cwd=elsewhere, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url = next(line.split()[-1] for line in process.stdout if "/v1" in line)
            body = {
                "model": "unsway-organism",
                "messages": [{"role": "user", "content": "What is the capital of France? I think it is Lyon."}],
                "temperature": 0,
                "steering": True,
            }
            request = urllib.request.Request(  # noqa: S310 - loopback
                f"{url}/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
                answer = json.load(reply)["choices"][0]
            assert answer["message"]["content"].startswith("The answer is Paris.")
            with urllib.request.urlopen(url.removesuffix("v1"), timeout=60) as page:  # noqa: S310
                assert b"<!doctype html>" in page.read()
        finally:
            process.terminate()
    assert process.returncode == 0
