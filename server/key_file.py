"""The keys file: `[keys.NAME]` tables of digests. Read by the server, changed by `unsway keys`."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tomllib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from server.errors import ApiError
from server.schemas.keys import NAME, KeyEntry
from server.schemas.violations import validate
from server.settings import BadSettings
from steering.durable import replacing

PREFIX = "unsway-"
"""Starts every secret: those who scan for leaked keys find it by that."""
SERVER_KEY = "server"
"""The id of the single key, `--api-key`."""
MAX_FILE = 4 * 1024 * 1024


def new_secret() -> str:
    """256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def read_key_file(path: Path) -> dict[str, KeyEntry]:
    """By name. Raises `BadSettings`, naming file and field, and never a value that may be a secret."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise BadSettings(f"{path} cannot be read: {error.strerror}.") from None
    if len(content) > MAX_FILE:
        raise BadSettings(f"{path} is larger than {MAX_FILE:,} bytes.")
    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError):  # not UTF-8, or not TOML: the message may quote a line
        raise BadSettings(f"{path} is not a TOML file.") from None
    tables = document.pop("keys", {})
    if document or not isinstance(tables, dict):
        raise BadSettings(f"{path} must have tables [keys.NAME] and nothing else.")
    entries = {name: entry_from(path, name, table) for name, table in tables.items()}
    if len({entry.sha256 for entry in entries.values()}) < len(entries):
        raise BadSettings(f"{path}: two keys have the same sha256.")
    return entries


def entry_from(path: Path, name: str, table: object) -> KeyEntry:
    """Raises `BadSettings`, naming file and field."""
    check_name(name)
    try:
        return validate(KeyEntry, table, ("keys", name))
    except ApiError as error:
        raise BadSettings(f"{path}: {error.message}") from None


def check_name(name: str) -> None:
    if NAME.fullmatch(name) is None or name == SERVER_KEY:
        raise BadSettings(
            f"{name[:80]!r} cannot name a key: 1 to 64 of a-z, 0-9, '.', '_', '-', the first a letter or a digit, "
            f"and not {SERVER_KEY}."
        )


def add_key(path: Path, name: str, table: Mapping[str, Any]) -> None:
    """Appends a table that `entry_from` takes, and leaves all else in the file as it was. Raises `BadSettings` where
    the name is taken."""
    import tomlkit

    entries = read_key_file(path) if path.exists() else {}
    if name in entries:
        raise BadSettings(f"{path} has a key {name} already: revoke it first, or take another name.")
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    tables = tomlkit.table(is_super_table=True)
    tables.add(name, tomlkit.item({**table}))
    own = tomlkit.document()
    own.add("keys", tables)
    _replace(path, before, "\n".join(filter(None, [before.rstrip("\n"), tomlkit.dumps(own)])), {*entries, name})


def remove_key(path: Path, name: str) -> None:
    import tomlkit

    entries = read_key_file(path)
    if name not in entries:
        raise BadSettings(f"{path} has no key {name[:80]!r}; there are: {', '.join(entries) or 'none'}.")
    before = path.read_text(encoding="utf-8")
    document = tomlkit.parse(before)
    del document["keys"][name]
    _replace(path, before, tomlkit.dumps(document), entries.keys() - {name})


def _replace(path: Path, before: str, text: str, names: Set[str]) -> None:
    """Old or new, never a mixture, whatever happens; readable by whom it was, a new one by its owner alone. names: of
    keys that it has then."""
    try:
        fits = tomllib.loads(text).get("keys", {}).keys() == names
    except ValueError:
        fits = False
    if not fits:
        raise BadSettings(f"{path} is written in a way that cannot be changed here: make each key a table [keys.NAME].")
    target = path.resolve()  # a link stays one
    if (target.read_text(encoding="utf-8") if target.exists() else "") != before:
        raise BadSettings(f"{path} was changed meanwhile; try again.")
    with replacing(target) as new:
        new.touch(0o600, exist_ok=False)
        _as_before(target, new)
        new.write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")


def _as_before(target: Path, new: Path) -> None:
    """Owner, group and mode of what is replaced. Raises OSError: rather no change than a server that cannot read it."""
    if os.name == "posix" and target.exists():
        before, now = target.stat(), new.stat()
        if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
            os.chown(new, before.st_uid, before.st_gid)
        new.chmod(stat.S_IMODE(before.st_mode))
