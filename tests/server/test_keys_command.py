"""`unsway keys`: the secret is shown once, the file keeps its digest, and all that people wrote in it."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

from server import key_file
from server.key_file import digest_of, read_key_file
from server.keys import KeyRing
from server.settings import BadSettings
from tests.command_line import unsway

SECRET = re.compile(r"unsway-[A-Za-z0-9_-]{43}")


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path: Path = tmp_path / "keys.toml"
    monkeypatch.setenv("UNSWAY_KEYS", str(path))
    monkeypatch.setenv("COLUMNS", "200")
    return path


def test_a_new_key_opens_what_it_says(file: Path) -> None:
    made = unsway("keys", "new", "alice", "--scope", "chat", "--scope", "trace", "--requests-per-minute", "9")
    secret = made.out.strip()
    assert made.code == 0 and SECRET.fullmatch(secret) and "alice" in made.err and secret not in made.err
    assert secret not in file.read_text() and digest_of(secret.encode()).hex() in file.read_text()
    assert sys.platform == "win32" or file.stat().st_mode & 0o777 == 0o600
    caller = KeyRing(None, file).find(secret.encode())
    assert caller is not None and caller.id == "alice" and caller.scopes == {"chat", "trace"}
    assert caller.limits.requests_per_minute == 9 and caller.limits.tokens_per_minute is None


def test_every_option_is_in_the_file(file: Path) -> None:
    options = [
        "--steering",
        '{"profile": "candid"}',
        "--no-switching-off",
        "--max-strength",
        "0.5",
        "--profile",
        "candid",
    ]
    options += ["--profile", "firm", "--expires-in", "30", "--tokens-per-minute", "1000", "--json"]
    told = json.loads(unsway("keys", "new", "bob", *options).out)
    assert told["name"] == "bob" and SECRET.fullmatch(told["secret"])
    (table,) = tomllib.loads(file.read_text())["keys"].values()
    assert (table["expires"] - table["created"]).days == 30 and table["scopes"] == ["chat"]
    caller = KeyRing(None, file).find(told["secret"].encode())
    assert caller is not None and caller.steering is not None and caller.steering.profile == "candid"
    assert caller.policy.profiles == {"candid", "firm"} and caller.policy.max_strength == 0.5
    assert not caller.policy.may_switch_off and caller.limits.tokens_per_minute == 1000


def test_two_keys_are_never_the_same(file: Path) -> None:
    secrets = {unsway("keys", "new", name).out for name in ("a", "b", "c")}
    assert len(secrets) == 3 and len(read_key_file(file)) == 3


def test_what_people_wrote_stays(file: Path) -> None:
    file.write_text('# Ours.\n[keys.old] # of 2025\nsha256 = "' + "0" * 64 + '"\nscopes = ["jobs"]\n\n# The end.\n')
    assert unsway("keys", "new", "a.b").code == 0 and unsway("keys", "new", "c").code == 0
    assert unsway("keys", "revoke", "a.b").out == "a.b is revoked.\n"
    text = file.read_text()
    assert all(note in text for note in ("# Ours.", "# of 2025", "# The end.")) and text.endswith("\n")
    assert list(read_key_file(file)) == ["old", "c"]


@pytest.mark.parametrize(
    "text",
    [
        '[keys]\nx = { sha256 = "{}", scopes = ["chat"] }\n',
        'keys.x.sha256 = "{}"\nkeys.x.scopes = ["chat"]\n',
        '[keys.x]\nsha256 = "{}"\nscopes = [\n  "chat", # [keys.y]\n]\n[keys.x.limits]\nrequests_per_minute = 5\n',
        'keys = { x = { sha256 = "{}", scopes = ["chat"] } }\n',
    ],
)
def test_a_key_is_revoked_however_it_is_written(file: Path, text: str) -> None:
    file.write_text(text.replace("{}", "0" * 64))
    assert unsway("keys", "revoke", "x").code == 0
    assert read_key_file(file) == {}


def test_L13_a_file_that_cannot_be_appended_to_says_so(file: Path) -> None:
    file.write_text('keys = { x = { sha256 = "{}", scopes = ["chat"] } }\n'.replace("{}", "0" * 64, 1))
    unsway("keys", "new", "y").refuses("make each key a table [keys.NAME]")
    assert list(read_key_file(file)) == ["x"]


def test_keys_are_listed(file: Path) -> None:
    unsway("keys", "new", "alice", "--steering", "candid", "--max-strength", "1", "--expires-in", "2")
    unsway("keys", "new", "bob", "--scope", "admin", "--requests-per-minute", "1200", "--profile", "x")
    table = unsway("keys", "list").out
    assert all(word in table for word in ("alice", "candid", "strength to 1", "admin", "1,200 requests", "UTC"))
    first, second = json.loads(unsway("keys", "list", "--json").out)
    assert (first["name"], second["name"]) == ("alice", "bob") and first["steering"] == "candid"
    assert second["scopes"] == ["admin"] and len(second["sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new", "bob"), ("bob already", "revoke it first")),
        (("new", "Ada"), ("cannot name a key",)),
        (("new", "server"), ("cannot name a key", "not server")),
        (("new", "x", "--scope", "all"), ("keys.x.scopes.0", "'steer:custom'")),
        (("new", "x", "--steering", "{"), ("steering",)),
        (("new", "x", "--no-switching-off"), ("default steering that is on",)),
        (("new", "x", "--requests-per-minute", "0"), ("between 1 and",)),
        (("new", "x", "--expires-in", "0"), ("--expires-in",)),
        (("revoke", "zoe"), ("no key 'zoe'", "there are: bob")),
    ],
)
def test_L13_what_is_refused_changes_nothing(file: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    unsway("keys", "new", "bob")
    before = file.read_bytes()
    unsway("keys", *arguments).refuses(*words)
    assert file.read_bytes() == before and [path.name for path in file.parent.iterdir()] == [file.name]


def test_L13_a_file_that_is_none(file: Path) -> None:
    unsway("keys", "list").refuses("No such file")
    file.write_text("[")
    for command in (("list",), ("new", "a"), ("revoke", "a")):
        unsway("keys", *command).refuses("not a TOML file")


def test_the_settings_file_names_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSWAY_KEYS")
    monkeypatch.chdir(tmp_path)
    unsway("keys", "list").refuses("--keys", "UNSWAY_KEYS")
    (tmp_path / "unsway.toml").write_text('keys = "mine.toml"')
    assert unsway("keys", "new", "a").code == 0
    assert list(read_key_file(tmp_path / "mine.toml")) == ["a"]


def test_L4_a_write_that_fails_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsway("keys", "new", "a")
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(key_file.os, "fsync", full)
    unsway("keys", "revoke", "a").refuses("No space left")
    assert file.read_bytes() == before and [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_change_of_somebody_else_is_not_lost(file: Path) -> None:
    file.write_text("# theirs\n")
    with pytest.raises(BadSettings, match="changed meanwhile"):
        key_file._replace(file, "# mine\n", "# new\n", set())
    assert file.read_text() == "# theirs\n"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_stays_one(file: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file.symlink_to(tmp_path / "real" / "keys.toml")
    (tmp_path / "real" / "keys.toml").touch()
    assert unsway("keys", "new", "a").code == 0
    assert file.is_symlink() and list(read_key_file(tmp_path / "real" / "keys.toml")) == ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_who_may_read_the_file_stays_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unsway("keys", "new", "a").code == 0 and file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    if os.getuid() == 0:
        os.chown(file, 12345, 12346)
    owner = file.stat().st_uid, file.stat().st_gid
    for arguments in (("new", "b"), ("revoke", "a")):
        assert unsway("keys", *arguments).code == 0
        now = file.stat()
        assert (now.st_mode & 0o777, now.st_uid, now.st_gid) == (0o640, *owner)
