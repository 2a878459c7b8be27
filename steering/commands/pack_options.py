"""Which packs a command looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Packs = Annotated[
    Path | None,
    typer.Option("--packs", envvar="UNSWAY_PACKS", help="Folder of packs, one folder each; else the model's own."),
]


def folder_of(packs: Path | None, model: str) -> Path:
    """Of the packs of a model."""
    from steering.store import packs_folder

    folder = packs_folder(model, packs)
    if folder is None:
        raise typer.BadParameter(f"{model} brings no packs of its own; name their folder.", param_hint="--packs")
    return folder
