"""Where settings come from: flags, then the environment, then one TOML file, then their defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

import typer

from server.settings import BadSettings, Settings, field_types, flag

Source = Literal["flag", "environment", "file", "default"]

_KINDS: Mapping[object, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Path: "a path in quotes",
}
MASK = "********"


@dataclass(frozen=True)
class SettingsFile:
    """One TOML file: a key per field of `Settings`, checked as far as types go."""

    path: Path
    values: Mapping[str, object]


@dataclass(frozen=True)
class Configuration:
    """The settings in effect, and who asked for each."""

    settings: Settings
    sources: Mapping[str, Source]
    """Of the fields that the command takes."""
    file: Path | None
    """The file that was read."""

    def value(self, field: str) -> str | int | float | bool | None:
        """As it can be shown and written as JSON: no key in it."""
        value = getattr(self.settings, field)
        if field == "api_key" and value is not None:
            return MASK
        return str(value) if isinstance(value, Path) else value


def standard_places() -> tuple[Path, ...]:
    """Where a file is looked for that nobody named; the first one found is read, and no other."""
    return Path("unsway.toml"), Path(typer.get_app_dir("unsway")) / "config.toml"


def read_settings_file(given: Path | None) -> SettingsFile | None:
    """The file given, else the first in a standard place. Raises `BadSettings`, naming file and key."""
    path = given or next((place for place in standard_places() if place.is_file()), None)
    if path is None:
        return None
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSettings(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, or not TOML
        raise BadSettings(f"{path} is not a TOML file: {error}.") from None
    return SettingsFile(path, {key: _read(path, key, value) for key, value in document.items()})


def configure(given: Mapping[str, Any], sources: Mapping[str, Source], file: SettingsFile | None) -> Configuration:
    """Settings of the fields in `given`: a value that is only a default gives way to the file's."""
    from_file = {key: value for key, value in (file.values if file else {}).items() if sources.get(key) == "default"}
    sources = {**sources, **dict.fromkeys(from_file, "file")}
    path = file.path if file else None
    try:
        return Configuration(Settings(**{**given, **from_file}), sources, path)
    except BadSettings as error:
        if error.field is None:
            raise
        raise BadSettings(f"{_place(error.field, sources[error.field], path)} {error.rule}") from None


def environment_variable(field: str) -> str:
    return f"UNSWAY_{field.upper()}"


def _place(field: str, source: Source, path: Path | None) -> str:
    match source:
        case "file":
            return f"{path}: {field}"
        case "environment":
            return f"{environment_variable(field)} ({flag(field)})"
        case _:
            return flag(field)


def _read(path: Path, key: str, value: object) -> object:
    """A value of the file as its field wants it."""
    types = field_types()
    if key not in types:
        close = get_close_matches(key.replace("-", "_"), types, n=1)
        known = f"did you mean {close[0]}?" if close else f"known are {', '.join(types)}."
        raise BadSettings(f"{path}: {key[:80]!r} is no setting; {known}")
    arms = [arm for arm in _arms(types[key]) if arm is not NoneType]
    for arm in arms:
        if arm is Path and isinstance(value, str):
            return Path(value).expanduser()
        if arm is float and type(value) is int:
            return float(value)
        if type(value) is arm or (not isinstance(arm, type) and value == arm):
            return value
    allowed = " or ".join(_KINDS[arm] if isinstance(arm, type) else f'"{arm}"' for arm in arms)
    shown = "something else" if key == "api_key" else repr(value)[:60]
    raise BadSettings(f"{path}: {key} must be {allowed} (got {shown}).")


def _arms(annotation: Any) -> list[Any]:
    """The types and literal values that an annotation stands for."""
    arms = get_args(annotation)
    return [one for arm in arms for one in _arms(arm)] if arms else [annotation]
