"""The command `unsway`. Imports of weight happen inside the commands, so that `--help` is quick."""

from __future__ import annotations

import json
import os
import socket
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer

import steering.cli
from server.configuration import Configuration, read_settings_file
from server.options import takes_settings
from server.settings import BadSettings, Settings

app = typer.Typer(
    help="Activation steering server: an OpenAI-compatible API that can be kept from caving in.",
    epilog=steering.cli.EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(steering.cli.app)


_OF_SERVERS = (
    "host",
    "port",
    "api_key",
    "no_auth",
    "served_model_name",
    "default_mode",
    "uploads",
    "max_upload",
    "uploads_count",
    "uploads_size",
    "key_uploads_count",
    "key_uploads_size",
    "max_rows",
    "queue",
    "prefill_stretch",
)
"""Settings that a chat in the terminal has no use for."""


def main() -> None:
    """Runs the command line. Whatever is wrong with it is one line on stderr and exit code 2."""
    steering.cli.run(app, BadSettings)


@app.callback(invoke_without_command=True)
def unsway(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(metadata.version("unsway"))
        raise typer.Exit
    if context.invoked_subcommand == "packs":
        context.default_map = _defaults_of_packs()


@app.command()
@takes_settings()
def serve(configuration: Configuration) -> None:
    """Serve a model over HTTP. Every option has an environment variable: --max-rows is UNSWAY_MAX_ROWS."""
    listener = _listen(configuration.settings)
    from server.process import run

    raise typer.Exit(run(configuration, listener))


@app.command()
@takes_settings(without=_OF_SERVERS, spelt={"default_profile": "--profile"})
def chat(
    configuration: Configuration,
    steer: Annotated[
        Literal["on", "observe", "compare", "off"] | None,  # ordered as the schema's: typing keeps one of equal unions
        typer.Option("--steer", help="How answers are steered; on where the model has a default profile."),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="What the model is told first.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Most tokens of an answer.")] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="0 to 2; 0 always gives the same.")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an answer.")] = False,
) -> None:
    """Chat with a model in the terminal; a line is a question, /help lists commands. Reads a pipe, too."""
    from server.terminal.chat import open_chat
    from server.terminal.conversation import ChatOptions

    options = ChatOptions(system=system, max_tokens=max_tokens, temperature=temperature)
    raise typer.Exit(open_chat(configuration.settings, options, steer=steer, as_json=as_json))


@app.command("config")
@takes_settings()
def show_configuration(
    configuration: Configuration,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
) -> None:
    """Print every setting in effect and where it comes from: flag, environment, file or default."""
    rows = {name: (configuration.value(name), source) for name, source in configuration.sources.items()}
    if as_json:
        settings = {name: {"value": value, "source": source} for name, (value, source) in rows.items()}
        file = None if configuration.file is None else str(configuration.file)
        typer.echo(json.dumps({"file": file, "settings": settings}, indent=2))
        return
    from steering.commands.table import print_table

    print_table(
        ("setting", "value", "source"),
        [(name, "" if value is None else str(value), source) for name, (value, source) in rows.items()],
    )
    typer.echo(f"File: {configuration.file or 'none'}")


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


def _defaults_of_packs() -> dict[str, object]:
    """What the settings file says of packs and model holds for the commands that look at packs, too."""
    named = os.environ.get("UNSWAY_CONFIG")
    file = read_settings_file(Path(named) if named else None)
    values = {key: value for key, value in (file.values if file else {}).items() if key in ("packs", "model")}
    return {"packs": dict.fromkeys(("list", "show", "verify", "import", "export"), values)}
