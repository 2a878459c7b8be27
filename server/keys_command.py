"""`unsway keys`: makes, lists and revokes the keys of a keys file. A server that reads it follows at once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from server.schemas.keys import KeyEntry

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

KeysFile = Annotated[
    Path, typer.Option("--keys", envvar="UNSWAY_KEYS", help="The keys file; a server gets it by the same option.")
]
Name = Annotated[str, typer.Argument(help="Name of the key, by which logs and fairness know it.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@app.command("new")
def new_key(  # noqa: PLR0913 - one for each option
    name: Name,
    keys: KeysFile,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="chat, trace, steer:custom, profiles, jobs or admin; give it again for more."),
    ] = None,
    expires_in: Annotated[int | None, typer.Option("--expires-in", min=1, help="Days; never if not given.")] = None,
    steering: Annotated[
        str | None,
        typer.Option("--steering", help="What its requests get that say nothing: true, a profile, or a JSON object."),
    ] = None,
    no_switching_off: Annotated[
        bool, typer.Option("--no-switching-off", help="Its requests may neither switch off nor weaken.")
    ] = False,
    max_strength: Annotated[float | None, typer.Option("--max-strength", help="More is clamped to it.")] = None,
    profile: Annotated[
        list[str] | None, typer.Option("--profile", help="One that may steer; all, if none is named.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option("--requests-per-minute", help="No limit without.")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option("--tokens-per-minute", help="Of prompts and answers together; no limit without.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print its secret, this once; the file gets its SHA-256 and is made if there is none."""
    from server.key_file import add_key, digest_of, entry_from, new_secret

    secret, now = new_secret(), datetime.now(UTC).replace(microsecond=0)
    told: dict[str, Any] = {
        "sha256": digest_of(secret.encode()).hex(),
        "scopes": scope or ["chat"],
        "created": now,
        "expires": None if expires_in is None else now + timedelta(days=expires_in),
        "steering": steering,
        "policy": _given(
            may_switch_off=False if no_switching_off else None, max_strength=max_strength, profiles=profile or None
        ),
        "limits": _given(requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute),
    }
    table = {key: value for key, value in told.items() if value not in (None, {})}
    entry = entry_from(keys, name, table)
    if entry.steering is not None or not entry.policy.may_switch_off:
        from server.keys import caller_from  # seconds: it knows profiles, and so the engine

        caller_from(keys, name, entry)
    add_key(keys, name, table)
    if as_json:
        typer.echo(json.dumps({"name": name, "secret": secret}))
    else:
        typer.echo(secret)
        typer.echo(f"The key {name} is in {keys}, as its SHA-256. Nobody can show it again: keep it now.", err=True)


@app.command("list")
def list_keys(keys: KeysFile, as_json: AsJson = False) -> None:
    """What keys there are, and what each may."""
    from server.key_file import read_key_file

    entries = read_key_file(keys)
    if as_json:
        listed = [{"name": n, **e.model_dump(mode="json", exclude_none=True)} for n, e in entries.items()]
        typer.echo(json.dumps(listed, indent=2))
        return
    from steering.commands.table import print_table

    header = ("name", "scopes", "steering", "policy", "a minute", "expires")
    print_table(header, [_row(name, entry) for name, entry in entries.items()])


@app.command("revoke")
def revoke_key(name: Name, keys: KeysFile) -> None:
    """Take a key out of the file: its next request is refused, what runs goes on."""
    from server.key_file import remove_key

    remove_key(keys, name)
    typer.echo(f"{name} is revoked.")


def _given(**values: object) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _row(name: str, entry: KeyEntry) -> tuple[str, ...]:
    policy, limits, expires = entry.policy, entry.limits, entry.expires
    rules = [
        None if policy.may_switch_off else "stays on",
        None if policy.max_strength is None else f"strength to {policy.max_strength:g}",
        None if policy.profiles is None else " or ".join(policy.profiles),
    ]
    rates = [
        None if limits.requests_per_minute is None else f"{limits.requests_per_minute:,} requests",
        None if limits.tokens_per_minute is None else f"{limits.tokens_per_minute:,} tokens",
    ]
    over = expires is not None and expires <= datetime.now(UTC)
    return (
        name,
        " ".join(entry.scopes),
        _steering(entry),
        ", ".join(filter(None, rules)),
        ", ".join(filter(None, rates)),
        f"{expires:%Y-%m-%d %H:%M %Z}{' (over)' if over else ''}" if expires else "",
    )


def _steering(entry: KeyEntry) -> str:
    value = entry.steering
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value if isinstance(value, bool) else value.model_dump(exclude_none=True))
