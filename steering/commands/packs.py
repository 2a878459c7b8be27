"""`packs`: what packs there are, what is in them, whether they are whole. To look at one, no model is loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steering.commands import exchange
from steering.commands.pack_options import Packs, folder_of
from steering.commands.table import print_table
from steering.errors import PackError, PackNotFound
from steering.pack_summary import details, summary

if TYPE_CHECKING:
    from steering.pack import Pack
    from steering.store import PackStore

app = typer.Typer(help="List, show, verify, import and export packs.", no_args_is_help=True)
app.add_typer(exchange.app)

Model = Annotated[
    str | None,
    typer.Option("--model", envvar="UNSWAY_MODEL", help="Whose packs; the bundled model's if not given."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@app.command("list")
def list_packs(packs: Packs = None, model: Model = None, as_json: AsJson = False) -> None:
    """What each pack is and which model it was made for."""
    described = [summary(name, entry) for name, entry in _store(packs, model).entries()]
    if as_json:
        _print_json(described)
    else:
        header = ("name", "digest", "model", "corrections", "detector", "max strength", "note")
        print_table(header, [_row(pack) for pack in described])


@app.command("show")
def show_pack(
    name: Annotated[str, typer.Argument(help="Name of the pack.")],
    packs: Packs = None,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """The card of a pack, and its corrections."""
    pack = _store(packs, model).get(name)
    described = details(pack)
    if as_json:
        _print_json({**described, "card": pack.card})
        return
    _print_markdown(pack.card)
    header = ("correction", "site", "edit", "gate", "phases", "strength")
    print_table(header, [_correction_row(correction) for correction in described["corrections"]])


@app.command("verify")
def verify_packs(
    names: Annotated[list[str] | None, typer.Argument(help="Packs to verify; all if none is named.")] = None,
    packs: Packs = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            envvar="UNSWAY_MODEL",
            help="Model they must fit; without it, packs of a folder are held against none.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check files, digests, shapes and, with the model, the fingerprint. Exit code 1 if a pack cannot be used."""
    against = None if packs and model is None else (model or _bundled())
    entries = dict(_store(packs, model, against).entries())
    for name in names or ():
        if name not in entries:
            raise PackNotFound(f"no pack named {name[:80]!r}; there are: {', '.join(entries) or 'none'}.")
    verdicts = [_judge(name, entries[name], against) for name in names or entries]
    if as_json:
        _print_json(verdicts)
    else:
        print_table(("name", "digest", "verdict"), [_verdict_row(verdict) for verdict in verdicts])
    raise typer.Exit(0 if all(verdict["usable"] for verdict in verdicts) else 1)


def _bundled() -> str:
    from steering.model.loading import BUNDLED

    return BUNDLED


def _store(packs: Path | None, model: str | None, against: str | None = None) -> PackStore:
    """The packs of a folder or of a model, held against the model `against`."""
    from steering.model.loading import load_model
    from steering.store import PackStore

    folder = folder_of(packs, model or _bundled())
    store = PackStore(folder, load_model(against) if against else None)
    if not store.entries():
        raise PackError(f"there are no packs in {folder}.")
    return store


def _row(pack: dict[str, Any]) -> tuple[str, ...]:
    if "broken" in pack:
        return (pack["name"], "", "", "", "", "", f"broken: {pack['broken']}")
    detector = pack["detector"]
    return (
        pack["name"],
        pack["digest"][:12],
        pack["model"],
        str(pack["num_corrections"]),
        f"{detector['lens']} at layer {detector['layer']}, {detector['threshold']:.3f} bits" if detector else "none",
        f"{pack['max_strength']:g}",
        "observes only" if pack["observe_only"] else "",
    )


def _correction_row(correction: dict[str, Any]) -> tuple[str, ...]:
    from steering.unit import abridged

    where = {"site": abridged(correction["units"])} if "units" in correction else {}
    return tuple(str(value) for key, value in (correction | where).items() if key != "units")


def _judge(name: str, entry: Pack | PackError, against: str | None) -> dict[str, Any]:
    verdict = {"name": name, "digest": "", "usable": False, "model": against, "reason": ""}
    if isinstance(entry, PackError):
        return {**verdict, "reason": str(entry)}
    return {**verdict, "digest": entry.digest, "usable": True}


def _verdict_row(verdict: dict[str, Any]) -> tuple[str, str, str]:
    model = verdict["model"]
    whole = f"whole, fits {model}" if model else "whole; its model is not checked: name it with --model"
    return verdict["name"], verdict["digest"][:12], whole if verdict["usable"] else f"broken: {verdict['reason']}"


def _print_markdown(text: str) -> None:
    """Rendered for a terminal; as it is for a file or a pipe."""
    if not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))
