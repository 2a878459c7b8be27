"""docs/cli.md against the code: the table of settings word for word, every command and every option by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from docs.write_settings import FILE, page
from server.cli import app
from server.settings import field_types
from server.terminal.chat import COMMANDS
from steering.cli import EXIT_CODES

PAGE = FILE.read_text(encoding="utf-8")


def commands(command: Any, path: str = "unsway") -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, below in command.commands.items():
        yield from commands(below, f"{path} {name}")


ALL = dict(commands(typer.main.get_command(app)))


def test_the_table_of_settings_is_written_anew() -> None:
    assert page(PAGE) == PAGE, "run python -m docs.write_settings"


def test_the_commands_are_these() -> None:
    """The walk below does find them."""
    assert {"unsway serve", "unsway chat", "unsway packs verify", "unsway organism train"} <= ALL.keys()
    assert len(ALL) >= 11


@pytest.mark.parametrize("path", ALL)
def test_every_command_and_option_is_on_the_page(path: str) -> None:
    assert f"`{path}" in PAGE
    settings = {*field_types(), "config"}
    own = [parameter for parameter in ALL[path].params if parameter.name not in settings]
    missing = [o for parameter in own for o in parameter.opts if o.startswith("--") and o not in PAGE]
    assert not missing


def test_every_command_of_a_chat_is_on_the_page() -> None:
    assert all(f"/{name}`" in PAGE for name in COMMANDS)


def test_exit_codes_are_on_the_page() -> None:
    assert all(f"{code}" in PAGE.partition("Exit codes:")[2] for code in (0, 1, 2, 130)) and "130" in EXIT_CODES
