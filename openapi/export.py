"""Writes openapi.json, the committed description of the API: `python openapi/export.py`. A test compares the two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

from server.app import create_app
from server.async_engine import AsyncEngine
from server.settings import Settings

FILE = Path(__file__).with_name("openapi.json")


def document() -> str:
    """As text: sorted and indented, so that a change shows as the lines that changed."""
    app = create_app(Settings(), AsyncEngine(_never, capacity=1))
    return json.dumps(app.openapi(), indent=2, sort_keys=True) + "\n"


def _never() -> NoReturn:
    raise AssertionError("describing the API loads no model")


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
