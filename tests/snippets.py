"""Programs in docs/use-from: what each prints is in the `text` block below it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

USE_FROM = Path(__file__).parents[1] / "docs" / "use-from"
ADDRESS = "http://127.0.0.1:8000"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of all blocks, in order."""
    return _BLOCK.findall((USE_FROM / page).read_text(encoding="utf-8"))


def programs(*pages: str) -> Iterator[Any]:
    """Parameters (program, what it prints) of all Python programs of these pages."""
    for page in pages:
        found = blocks(page)
        for i, (language, program) in enumerate(found):
            if language == "python":
                kind, printed = found[i + 1]
                assert kind == "text", f"{page}: what does the program print?"
                yield pytest.param(program, printed, id=f"{page}:{i}")


def settings(page: str, url: str) -> Any:
    """The YAML file that a page shows, for a server at `url`."""
    (text,) = (text for language, text in blocks(page) if language == "yaml")
    assert ADDRESS in text
    return yaml.safe_load(text.replace(ADDRESS, url))


def run(python: str | Path, program: str, url: str, environment: dict[str, str]) -> str:
    """What it prints, against a server at `url`."""
    assert ADDRESS in program
    command = [python, "-c", program.replace(ADDRESS, url)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout
