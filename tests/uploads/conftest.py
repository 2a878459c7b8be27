from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.uploads.folders import Sent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


@pytest.fixture
def sent(tmp_path: Path) -> Sent:
    """A file with this content."""

    def write(raw: bytes) -> Path:
        file = tmp_path / f"sent-{threading.get_ident()}"
        file.write_bytes(raw)
        return file

    return write
