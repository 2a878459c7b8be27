"""Settings from flags, environment and file: who wins, and what is refused (FAULTS L13)."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from server.configuration import MASK
from server.settings import Settings
from tests.command_line import unsway

SECRET = "sk-93f1"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and a home of their own."""
    for name in Settings.__dataclass_fields__:
        monkeypatch.delenv(f"UNSWAY_{name.upper()}", raising=False)
    for home in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(home, str(tmp_path / "home"))
    working: Path = tmp_path / "work"
    working.mkdir()
    monkeypatch.chdir(working)
    return working


def shown(*arguments: str) -> dict[str, dict[str, Any]]:
    outcome = unsway("config", "--json", *arguments)
    assert outcome.code == 0, outcome.err
    settings: dict[str, dict[str, Any]] = json.loads(outcome.out)["settings"]
    return settings


SOURCES = ("file", "environment", "flag")
"""Lowest first."""


@pytest.mark.parametrize("given", [c for n in range(4) for c in combinations(SOURCES, n)], ids="+".join)
def test_law_the_highest_source_wins(given: tuple[str, ...], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "file" in given:
        (place / "unsway.toml").write_text("max_rows = 2")
    if "environment" in given:
        monkeypatch.setenv("UNSWAY_MAX_ROWS", "3")
    flags = ("--max-rows", "4") if "flag" in given else ()
    winner = given[-1] if given else "default"
    value = {"file": 2, "environment": 3, "flag": 4, "default": 16}[winner]
    settings = shown(*flags)
    assert settings["max_rows"] == {"value": value, "source": winner}
    assert {name for name, one in settings.items() if one["source"] != "default"} == ({"max_rows"} if given else set())


def test_every_setting_is_shown_with_its_default() -> None:
    settings = shown()
    assert {name: one["value"] for name, one in settings.items()} == vars(Settings())
    table = unsway("config").out
    assert all(name in table for name in settings) and "\x1b" not in table and "File: none" in table


def test_the_file_holds_every_type(place: Path) -> None:
    (place / "packs").mkdir()
    values = {
        "model": "org/name",
        "dtype": "float16",
        "port": 1234,
        "context": 99,
        "no_auth": True,
        "packs": str(place / "packs"),
        "default_profile": "candid",
    }
    (place / "unsway.toml").write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    settings = shown()
    assert {key: settings[key]["value"] for key in values} == values
    assert all(settings[key]["source"] == "file" for key in values)


def test_a_switch_of_the_file_can_be_turned_off(place: Path) -> None:
    (place / "unsway.toml").write_text("deterministic = true\nno_auth = true")
    settings = shown("--no-deterministic", "--auth")
    assert settings["deterministic"] == {"value": False, "source": "flag"}
    assert settings["no_auth"] == {"value": False, "source": "flag"}


def test_files_are_looked_for_in_order(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, port: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"port = {port}")
        return path

    monkeypatch.setattr("typer.get_app_dir", lambda name: str(tmp_path / "home" / name))
    user = write(tmp_path / "home" / "unsway" / "config.toml", 1)
    assert shown()["port"]["value"] == 1
    write(place / "unsway.toml", 2)
    assert shown()["port"]["value"] == 2
    monkeypatch.setenv("UNSWAY_CONFIG", str(write(tmp_path / "named.toml", 3)))
    assert shown()["port"]["value"] == 3
    assert shown("--config", str(user))["port"]["value"] == 1


def test_the_home_folder_may_be_written_as_a_tilde(place: Path, tmp_path: Path) -> None:
    (tmp_path / "home" / "packs").mkdir(parents=True)
    (place / "unsway.toml").write_text('packs = "~/packs"')
    assert shown()["packs"]["value"] == str(tmp_path / "home" / "packs")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", ("'prot'", "did you mean port?")),
        ("max-rows = 3", ("'max-rows'", "did you mean max_rows?")),
        ("zzz = 3", ("'zzz'", "known are", "max_rows")),
        ("[server]\nport = 1", ("'server'",)),
        ('port = "8000"', ("port must be a whole number", "'8000'")),
        ("port = true", ("port must be a whole number", "True")),
        ("port = 8000.0", ("port must be a whole number",)),
        ("deterministic = 1", ("deterministic must be true or false",)),
        ("packs = 1", ("packs must be a path",)),
        ('dtype = "int4"', ("dtype must be", '"bfloat16"', "'int4'")),
        ("port = 99999", (": port must be between 0 and 65535", "99999")),
        ('packs = "/nowhere"', (": packs must be a folder", "/nowhere")),
        ("model = 'a'\nport = =", ("not a TOML file", "line 2")),
        ("port = 1\nport = 2", ("not a TOML file",)),
        ('host = "0.0.0.0"', ("UNSWAY_API_KEY",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_L13_what_a_file_may_not_say(place: Path, text: str, words: tuple[str, ...]) -> None:
    (place / "unsway.toml").write_text(text)
    outcome = unsway("serve")
    outcome.refuses(*words)
    assert "unsway.toml" in outcome.err or "UNSWAY_API_KEY" in words
    assert unsway("config").err == outcome.err


def test_L13_every_command_refuses_a_file_it_does_not_know(place: Path) -> None:
    (place / "unsway.toml").write_text("zzz = 3")
    for command in ("serve", "chat", "config"):
        unsway(command).refuses("'zzz'")


def test_L13_a_file_that_cannot_be_read(place: Path) -> None:
    unsway("serve", "--config", "none.toml").refuses("none.toml", "cannot be read", "No such file")
    (place / "latin.toml").write_bytes(b'model = "caf\xe9"')
    unsway("serve", "--config", "latin.toml").refuses("latin.toml", "not a TOML file")


def test_L13_a_bad_value_names_where_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    unsway("serve", "--queue", "0").refuses("--queue must be", "65536")
    for stretch in ("1", "-2", "nan", "inf"):
        unsway("serve", "--prefill-stretch", stretch).refuses("--prefill-stretch must be 0 or above 1")
    monkeypatch.setenv("UNSWAY_QUEUE", "0")
    unsway("serve").refuses("UNSWAY_QUEUE (--queue) must be", "65536")
    monkeypatch.setenv("UNSWAY_QUEUE", "many")
    unsway("serve").refuses("--queue")


def test_the_key_is_never_shown(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSWAY_API_KEY", SECRET)
    assert shown()["api_key"] == {"value": MASK, "source": "environment"}
    assert SECRET not in unsway("config").out
    monkeypatch.delenv("UNSWAY_API_KEY")
    (place / "unsway.toml").write_text("api_key = 931415")
    outcome = unsway("config")
    outcome.refuses("api_key must be a string")
    assert "931415" not in outcome.err


def test_packs_follow_the_file(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "unsway.toml").write_text('packs = "mine"')
    unsway("packs", "list").refuses("no packs in mine")
    unsway("packs", "export", "x", "--format", "svec", "--out", "y").refuses("no profile named 'x'")
    unsway("packs", "import", "x.svec", "--out", "y").refuses("x.svec: there is no such file")
    (place / "unsway.toml").write_text("pakcs = 1")
    unsway("packs", "list").refuses("did you mean packs?")
