"""Writes the table of settings in docs/cli.md: `python -m docs.write_settings`. A test compares the two."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from server.configuration import environment_variable
from server.settings import Settings, field_help, flag

FILE = Path(__file__).with_name("cli.md")
_SECTION = re.compile(r"(<!-- settings: [^\n]*-->\n).*?(<!-- end of settings -->)", re.DOTALL)


def page(text: str) -> str:
    """The page with its table written anew."""
    lines = field_help()
    rows = [
        f"| `{flag(f.name)}` | `{environment_variable(f.name)}` | {_default(f.default)} | {lines[f.name]} |"
        for f in fields(Settings)
    ]
    table = ["| flag | environment | default | |", "|---|---|---|---|", *rows]
    return _SECTION.sub(lambda match: "\n".join([match[1].rstrip(), *table, match[2]]), text)


def _default(value: object) -> str:
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    FILE.write_text(page(FILE.read_text(encoding="utf-8")), encoding="utf-8")
