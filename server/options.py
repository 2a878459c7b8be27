"""Command-line options generated from the fields of `Settings`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from server.configuration import Source, configure, environment_variable, read_settings_file
from server.settings import Settings, field_help, field_types, flag

_SOURCES: dict[str, Source] = {"COMMANDLINE": "flag", "ENVIRONMENT": "environment"}
_PANEL = "Settings"
_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar="UNSWAY_CONFIG",
            help="TOML file of settings; else ./unsway.toml, else config.toml in the user's folder for Unsway.",
            rich_help_panel=_PANEL,
        ),
    ],
)

Command = Callable[..., None]


def takes_settings(
    *, without: Collection[str] = (), spelt: Mapping[str, str] | None = None
) -> Callable[[Command], Command]:
    """Gives a command one option and one environment variable per setting, and itself their `Configuration`.

    without: fields that this command has no use for; they keep their defaults. spelt: other flags than a field's own.
    """

    def decorate(command: Command) -> Command:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        names = [name for name in field_types() if name not in without]

        @wraps(command)
        def run(invocation: typer.Context, config: Path | None, **options: Any) -> None:
            given = {name: options.pop(name) for name in names}
            sources = {name: _source(invocation, name) for name in names}
            command(configure(given, sources, read_settings_file(config)), **options)

        parameters = [
            inspect.Parameter("invocation", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
            *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
            _CONFIG,
            *(_option(name, (spelt or {}).get(name, _flags(name))) for name in names),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _source(invocation: typer.Context, name: str) -> Source:
    source = invocation.get_parameter_source(name)
    return _SOURCES.get(source.name if source else "", "default")


def _option(name: str, flags: str) -> inspect.Parameter:
    option = typer.Option(
        flags,
        help=field_help()[name],
        envvar=environment_variable(name),
        show_envvar=name == "api_key",  # the others follow the rule
        rich_help_panel="Switches" if field_types()[name] is bool else _PANEL,
    )
    default, annotation = getattr(Settings, name), Annotated[field_types()[name], option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flags(name: str) -> str:
    """A switch has two, so that it can be turned off again where the file has turned it on."""
    if field_types()[name] is not bool:
        return flag(name)
    opposite = name.removeprefix("no_") if name.startswith("no_") else f"no_{name}"
    return f"{flag(name)}/{flag(opposite)}"
