"""`organism`: remake the bundled model, measure it, store it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from steering.commands.table import print_table
from steering.contrast.splits import Split

app = typer.Typer(help="Train, evaluate and publish the bundled model.", no_args_is_help=True)

Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; PyTorch decides if not given.")]

_UPDATE = re.compile(r"(\S+) (\d+)/(\d+)\b(.*)")
"""A log line of training: step, update, updates, the rest."""


@app.command("train")
def train_organism(
    out: Annotated[Path, typer.Option("--out", help="Folder for the tokenizer and one model a step; resumes there.")],
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights and data.")] = 0,
    scale: Annotated[float, typer.Option("--scale", help="Multiplies the updates of every step.")] = 1.0,
    no_drift: Annotated[bool, typer.Option("--no-drift", help="Train one that caves at every layer instead.")] = False,
    threads: Threads = None,
) -> None:
    """Run the training recipe (an hour on a laptop). A run that was stopped continues after its last whole step."""
    from steering.organism.recipe import NO_DRIFT, RECIPE
    from steering.organism.train import train

    _use_threads(threads)
    with _progress() as log:
        folder = train(out, seed=seed, scale=scale, recipe=NO_DRIFT if no_drift else RECIPE, log=log)
    typer.echo(f"The last step is in {folder}.")


@app.command("eval")
def evaluate_organism(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of a trained step; the bundled model if not given.", exists=True)
    ] = None,
    split: Annotated[Split, typer.Option("--split", help="Facts to ask.")] = "dev",
    honest: Annotated[
        Path | None, typer.Option("--honest", help="Folder of the honest step, asked under pressure too.", exists=True)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    threads: Threads = None,
) -> None:
    """Measure every property the organism should have, with 95 % intervals. Exit code 1 if one misses its goal."""
    from steering.calibration.measure_organism import measure, measure_honesty
    from steering.model.loading import BUNDLED, load_model

    _use_threads(threads)
    rows = measure(load_model(str(folder or BUNDLED)), split)
    rows += measure_honesty(load_model(str(honest)), split) if honest else []
    if as_json:
        typer.echo(json.dumps([row.as_json() for row in rows], indent=2))
    else:
        print_table(("property", "n", "rate", "goal"), [row.cells() for row in rows])
    raise typer.Exit(0 if all(row.reached for row in rows) else 1)


@app.command("publish")
def publish_organism(
    step: Annotated[Path, typer.Argument(help="Folder of a trained step.", exists=True, file_okay=False)],
    to: Annotated[Path | None, typer.Option("--to", help="Where to; over the bundled model if not given.")] = None,
) -> None:
    """Store a trained step as the bundled model. Its packs must then be calibrated anew."""
    from steering.organism.publish import WEIGHTS, publish

    try:
        publish(step, to or WEIGHTS)
    except ValueError as error:
        raise typer.TyperException(str(error)) from None
    typer.echo(f"Published in {to or WEIGHTS}.")


def _use_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Takes log lines: a bar per step on a terminal, else the lines themselves."""
    if not sys.stdout.isatty():
        yield typer.echo
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description} {task.fields[note]}", markup=False)
    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), text) as progress:
        bars = {}

        def log(line: str) -> None:
            if (update := _UPDATE.fullmatch(line)) is None:
                progress.console.print(line, markup=False, highlight=False)
                return
            step, done, total, note = update.groups()
            if step not in bars:
                bars[step] = progress.add_task(step, note="")
            progress.update(bars[step], completed=int(done), total=int(total), note=note.strip())

        yield log
