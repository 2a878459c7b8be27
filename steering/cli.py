"""The library's own command line, `python -m steering`; `unsway` has these commands too. Imports nothing of weight."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from steering.commands import calibrate, drift, evaluate, lens, organism, packs
from steering.errors import SteeringError
from steering.model.quiet import quiet_optional_packages

EXIT_CODES = "Exit codes: 0 done; 1 a check failed; 2 wrong usage or settings, in one line on stderr; 130 interrupted."

app = typer.Typer(
    help="Steer a causal language model while it decodes: the commands that need no server.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(packs.app, name="packs")
app.add_typer(calibrate.app)
app.add_typer(evaluate.app)
app.add_typer(drift.app)
app.add_typer(lens.app, name="lens")
app.add_typer(organism.app, name="organism")


def main() -> None:
    run(app)


def run(command_line: typer.Typer, *refusals: type[Exception]) -> NoReturn:
    """Runs it and exits. Whatever a user can get wrong is one line on stderr; `refusals` are more such errors."""
    quiet_optional_packages()
    expected: tuple[type[Exception], ...] = (typer.TyperException, SteeringError, OSError, *refusals)
    try:
        code = command_line(standalone_mode=False)
    except expected as error:
        reason = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        if reason:  # without a command the help is the message
            typer.echo(f"unsway: {' '.join(reason.split())}", err=True)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    sys.exit(code)
