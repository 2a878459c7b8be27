"""`lens`: a tuned lens of all layers, from and to the checkpoints of tuned-lens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from steering.model.loading import LanguageModel

app = typer.Typer(help="Import and export tuned lenses.", no_args_is_help=True)

Model = Annotated[
    str | None,
    typer.Option("--model", envvar="UNSWAY_MODEL", help="Whose lens; the bundled model's if not given."),
]


@app.command("import")
def import_lens(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of tuned-lens: config.json and params.pt.")],
    out: Annotated[Path, typer.Option("--out", help="File for the lens, as calibrate takes it with --lens.")],
    model: Model = None,
    any_unembedding: Annotated[
        bool,
        typer.Option(
            "--any-unembedding",
            help="Take it although it names another unembedding, of another precision for instance.",
        ),
    ] = False,
) -> None:
    """Make a stored lens of a checkpoint of tuned-lens, for the model it was trained on."""
    from steering.interop.tuned_lens import read_checkpoint
    from steering.lens_file import save_lens

    whole = read_checkpoint(checkpoint, _load(model), any_unembedding=any_unembedding)
    save_lens(whole, out)
    typer.echo(f"{len(whole.lenses)} layers, {whole.origin}, saved in {out}.")


@app.command("export")
def export_lens(
    file: Annotated[Path, typer.Argument(help="Stored lens.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for config.json and params.pt.")],
    model: Model = None,
) -> None:
    """Make a checkpoint of tuned-lens of a stored lens."""
    from steering.interop.tuned_lens import write_checkpoint
    from steering.lens_file import load_lens

    loaded = _load(model)
    whole = load_lens(file, loaded)
    write_checkpoint(whole, out, loaded)
    typer.echo(f"{len(whole.lenses)} layers, {whole.origin}, written to {out}.")


def _load(model: str | None) -> LanguageModel:
    from steering.model.loading import BUNDLED, load_model

    return load_model(model or BUNDLED, device="cpu")
