"""The command `unsway`. Imports of weight happen inside the commands, so that `--help` is quick."""

from __future__ import annotations

import inspect
import socket
import sys
from dataclasses import fields
from importlib import metadata
from typing import Annotated, Any, get_type_hints

import typer

from server.settings import BadSettings, Settings, field_help

app = typer.Typer(
    help="Activation steering server: an OpenAI-compatible API that can be kept from caving in.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Runs the command line. Whatever is wrong with it is one line on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except (typer.TyperException, BadSettings) as error:
        reason = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        if reason:  # without a command the help is the message
            typer.echo(f"unsway: {' '.join(reason.split())}", err=True)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def unsway(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(metadata.version("unsway"))
        raise typer.Exit


def serve(**options: Any) -> None:
    """Serve a model over HTTP. Every option has an environment variable: --max-rows is UNSWAY_MAX_ROWS."""
    settings = Settings(**options)
    listener = _listen(settings)
    from server.process import run

    raise typer.Exit(run(settings, listener))


def _listen(settings: Settings) -> socket.socket:
    """Bound before anything is loaded: a taken port is known at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise BadSettings(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}.") from None
    # Connections inherit it. Without it the frame after a reply's first waits 40 ms for the client's delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _options() -> list[inspect.Parameter]:
    """One option and one environment variable per field of `Settings`."""
    types, lines = get_type_hints(Settings), field_help()
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[
                types[field.name],
                typer.Option(
                    f"--{field.name.replace('_', '-')}",
                    help=lines[field.name],
                    envvar=f"UNSWAY_{field.name.upper()}",
                    show_envvar=field.name == "api_key",
                ),
            ],
        )
        for field in fields(Settings)
    ]


serve.__signature__ = inspect.Signature(_options())  # type: ignore[attr-defined]
serve.__annotations__ = {option.name: option.annotation for option in _options()}
app.command()(serve)
