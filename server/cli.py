"""The command `unsway`. Imports of weight happen inside the commands, so that `--help` is quick."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer

import steering.cli
import steering.commands.lens
from server import keys_command
from server.configuration import Configuration, read_settings_file
from server.options import takes_settings
from server.settings import BadSettings, Settings
from server.terminal import jobs

app = typer.Typer(
    help="Activation steering server: an OpenAI-compatible API that can be kept from caving in.",
    epilog=steering.cli.EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(steering.cli.app)
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys_command.app, name="keys")


_OF_SERVERS = (
    "host",
    "port",
    "api_key",
    "keys",
    "no_auth",
    "allowed_hosts",
    "audit_log",
    "log_format",
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
    "trace_seconds",
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
    context.default_map = _defaults(context.invoked_subcommand)


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


_OF_TRACES = tuple(name for name in _OF_SERVERS if name != "api_key")
"""Settings that a command has no use for that asks once, a server or a model of its own."""
Prompt = Annotated[str, typer.Argument(help="What the user says.")]
Url = Annotated[str | None, typer.Option("--url", help="A running server to ask; without it the model is loaded here.")]
Out = Annotated[Path | None, typer.Option("--out", help="Also write it to a file: .png, .html or .csv.")]


@app.command()
@takes_settings(without=_OF_TRACES, spelt={"default_profile": "--profile"})
def trace(  # noqa: PLR0913 - options of a command
    configuration: Configuration,
    prompt: Prompt,
    url: Url = None,
    steer: Annotated[
        Literal["compare", "on", "observe"], typer.Option("--steer", help="One answer, or one steered and one not.")
    ] = "compare",
    strength: Annotated[float | None, typer.Option("--strength", help="How hard; 1 is the calibrated dose.")] = None,
    gate: Annotated[
        Literal["profile", "always", "drift"] | None, typer.Option("--gate", help="When corrections apply.")
    ] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", help="Drift above which the gate opens.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Most tokens of an answer.")] = None,
    out: Out = None,
) -> None:
    """Print an answer token by token, shaded by drift, with what early and late layers would have said."""
    from rich.console import Console

    from server.terminal import sheet
    from server.terminal import trace as tracing
    from server.terminal.asking import asked

    sheet.check_out(out)
    profile = configuration.settings.default_profile
    steering = {"mode": steer, "profile": profile, "strength": strength, "gate": gate, "threshold": threshold}
    with asked(configuration.settings, url) as server:
        reply = server.chat(tracing.body(prompt, steering, max_tokens))
    tracing.print_trace(reply, Console(highlight=False))
    if out is not None:
        sheet.write_sheet(tracing.sheet(reply, prompt), out)


@steering.commands.lens.app.command("show")
@takes_settings(without=_OF_TRACES, spelt={"default_profile": "--profile"})
def show_lens(  # noqa: PLR0913 - options of a command
    configuration: Configuration,
    prompt: Prompt,
    url: Url = None,
    answer: Annotated[str, typer.Option("--answer", help="How the answer begins, up to where it is read.")] = "",
    candidates: Annotated[
        str, typer.Option("--candidates", help="What may follow, with commas: the truth, the claim, ...")
    ] = "",
    last: Annotated[int | None, typer.Option("--last", min=1, help="Only the last so many tokens.")] = None,
    out: Out = None,
) -> None:
    """Print what every layer would say comes next, at every token of a prompt."""
    from rich.console import Console

    from server.terminal import layers, sheet
    from server.terminal.asking import asked

    sheet.check_out(out)
    with asked(configuration.settings, url) as server:
        profile = configuration.settings.default_profile or server.default_profile
        body = layers.body(prompt, answer, candidates.split(","), profile=profile, last=last)
        read = layers.sheet(server.lens(body), prompt)
    sheet.print_sheet(read, Console(highlight=False))
    if out is not None:
        sheet.write_sheet(read, out)


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


_OF_THE_FILE: Mapping[str | None, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "packs": (("packs", "model"), ("list", "show", "verify", "import", "export")),
    "keys": (("keys",), ("new", "list", "revoke")),
}
"""Group of commands -> settings that hold for it too, and its commands."""


def _defaults(group: str | None) -> dict[str, object] | None:
    """What the settings file says of what a group of commands looks at."""
    if group not in _OF_THE_FILE:
        return None
    settings, commands = _OF_THE_FILE[group]
    named = os.environ.get("UNSWAY_CONFIG")
    file = read_settings_file(Path(named) if named else None)
    values = {key: value for key, value in (file.values if file else {}).items() if key in settings}
    return {str(group): dict.fromkeys(commands, values)}
