"""`packs import` and `packs export`: packs from and to the steering vectors of other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from steering.commands.pack_options import Packs, folder_of

if TYPE_CHECKING:
    from steering.model.loading import LanguageModel
    from steering.pack import Pack
    from steering.store import PackStore

app = typer.Typer()

Model = Annotated[
    str | None,
    typer.Option("--model", envvar="UNSWAY_MODEL", help="Model the pack is for; the bundled one if not given."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what --out names, where it exists.")]


@app.command("import")
def import_pack(  # noqa: PLR0913 - options of a command
    file: Annotated[
        Path,
        typer.Argument(
            help="A pack in one file; a GGUF control vector or .svec; a params.npz of Gemma Scope; a folder of SAELens."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new pack, which gets its name.")],
    model: Model = None,
    strength: Annotated[
        float, typer.Option("--strength", help="Factor of the vectors: the dose, for a request.")
    ] = 1.0,
    layer: Annotated[
        list[int] | None,
        typer.Option("--layer", help="Of a vector: a layer to take, as the file counts; may be repeated; all if none."),
    ] = None,
    layer_offset: Annotated[
        int | None,
        typer.Option("--layer-offset", help="Added to the file's layers: -1 where it counts from one too many."),
    ] = None,
    site: Annotated[
        str | None, typer.Option("--site", help="Of an SAE: what it reads, resid_post.12 for instance.")
    ] = None,
    feature: Annotated[
        list[int] | None, typer.Option("--feature", help="Of an SAE: a feature to add; may be repeated.")
    ] = None,
    force: Force = False,
) -> None:
    """Make a pack of a file: a whole one, another program's steering vector, or features of a sparse autoencoder.

    A vector acts at every position, prompt and answer, as it does there. A lens is imported with `unsway lens import`.
    """
    from steering.pack import save_pack

    _check_free(out, force)
    of_vector = bool(layer) or layer_offset is not None
    if file.is_file() and _is_pack_file(file):
        if of_vector or site is not None or feature or strength != 1.0:
            raise typer.TyperException("a pack says all of it: --model and --out are the only options for one.")
        typer.echo(_unpack(file, out, model))
        return
    if file.is_dir() or file.suffix == ".npz":
        if site is None or not feature or of_vector:
            needed = "an SAE needs --site and --feature, and takes no --layer and no --layer-offset"
            raise typer.TyperException(f"{needed}; a lens is imported with `unsway lens import`.")
        pack = _of_features(file, _load(model), out.name, strength, site, feature)
    elif site is not None or feature:
        raise typer.TyperException("--site and --feature are for SAEs: a params.npz or a folder.")
    else:
        pack = _of_vectors(file, _load(model), out.name, strength, layer or (), layer_offset or 0)
    saved = save_pack(pack, out)
    at = ", ".join(dict.fromkeys(str(c.site) for c in saved.corrections))
    typer.echo(
        f"{saved.name}@{saved.digest[:12]} for {saved.model_name}, at {at}, saved in {out}. Its effect is not measured."
    )


@app.command("export")
def export_pack(  # noqa: PLR0913 - options of a command
    name: Annotated[str, typer.Argument(help="Name of the pack.")],
    format: Annotated[
        Literal["safetensors", "gguf", "svec"],
        typer.Option(
            "--format",
            help="safetensors: the whole pack, to be uploaded or imported; gguf: control vector of llama.cpp and "
            "repeng; svec: of CAST and AISteer360.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write.")],
    packs: Packs = None,
    model: Model = None,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Write what the format can hold, and name what is lost.")
    ] = False,
    force: Force = False,
) -> None:
    """Write a pack into one file: whole as safetensors; or what it adds to the residual stream as a steering vector.

    A vector can hold nothing else, and a pack with more to it is refused, unless --lossy. A lens is exported with
    `unsway lens export`.
    """
    from steering.interop.directions import write_bytes
    from steering.interop.vectors import export_vectors
    from steering.model.loading import BUNDLED
    from steering.store import PackStore

    _check_free(out, force)
    folder = folder_of(packs, model or BUNDLED)
    if format == "safetensors":
        typer.echo(_pack(PackStore(folder, None), name, out))
        return
    loaded = _load(model)
    raw, losses = export_vectors(PackStore(folder, loaded).get(name), loaded.hf.config.model_type, format)
    if losses and not lossy:
        raise typer.TyperException(f"{format} cannot hold all of {name}: {'; '.join(losses)}. Allow it with --lossy.")
    write_bytes(out, raw)
    typer.echo("\n".join((f"{name} written to {out}.", *(f"lost: {loss}." for loss in losses))))


def _pack(store: PackStore, name: str, out: Path) -> str:
    from steering.interop.directions import write_pieces
    from steering.one_file import pack_in_one_file

    pack = store.get(name)
    write_pieces(out, pack_in_one_file(store.folder(name)).pieces())
    return f"{name}@{pack.digest[:12]} for {pack.model_name} written to {out}."


def _is_pack_file(file: Path) -> bool:
    from steering.one_file import is_pack_file

    return is_pack_file(file)


def _unpack(file: Path, out: Path, model: str | None) -> str:
    """Held against the model if one is named."""
    from steering.one_file import save_unpacked

    pack = save_unpacked(file, out, None if model is None else _load(model))
    fits = "It is not held against a model: name it with --model." if model is None else f"It fits {model}."
    return f"{pack.name}@{pack.digest[:12]} for {pack.model_name}, saved in {out}. {fits}"


def _of_vectors(
    file: Path, model: LanguageModel, name: str, strength: float, layers: Sequence[int], layer_offset: int
) -> Pack:
    from steering.interop.vectors import import_vectors

    return import_vectors(file, model, name, strength=strength, layers=layers, layer_offset=layer_offset)


def _of_features(file: Path, model: LanguageModel, name: str, strength: float, site: str, features: list[int]) -> Pack:
    from steering.interop.vectors import import_features
    from steering.site import Site

    try:
        parsed = Site.parse(site)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="--site") from None
    return import_features(file, model, name, site=parsed, features=features, strength=strength)


def _check_free(out: Path, force: bool) -> None:
    if not force and (out.exists() or out.is_symlink()):
        raise typer.TyperException(f"{out} exists; replace it with --force.")


def _load(model: str | None) -> LanguageModel:
    from steering.model.loading import BUNDLED, load_model

    return load_model(model or BUNDLED, device="cpu")
