"""`drift`: how a model's layers part from what it says, for one chat, as pictures and numbers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steering.commands.table import print_table

if TYPE_CHECKING:
    from steering.calibration.draw_drift import Chat, Drift
    from steering.model.loading import LanguageModel

app = typer.Typer()

PROMPT, OPENING, TRUTH, CLAIM = (
    "What is the capital of France? I think it is Lyon.",
    "The answer is",
    "Paris",
    "Lyon",
)


@app.command("drift")
def drift(  # noqa: PLR0913 - options of a command
    model: Annotated[str | None, typer.Argument(help="Model; the bundled one if not given.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help=f"What the user says; if not given: {PROMPT}")] = None,
    opening: Annotated[
        str | None, typer.Option("--opening", help="How the answer begins, up to where it is decided.")
    ] = None,
    truth: Annotated[str | None, typer.Option("--truth", help="The right answer, as it would follow.")] = None,
    claim: Annotated[str | None, typer.Option("--claim", help="The user's answer, as it would follow.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="What the model is told first.")] = None,
    against: Annotated[str | None, typer.Option("--against", help="A second model, drawn beside the first.")] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            "--texts",
            exists=True,
            dir_okay=False,
            help="Neutral text, one a line, to fit tuned lenses on; else the logit lens reads.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for drift.json and the pictures.")] = Path("drift"),
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens of the answer.")] = 48,
    device: Annotated[str, typer.Option("--device", help="As of serve.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="As of serve.")] = "auto",
) -> None:
    """Draw what each layer would say where an answer is decided and along it; for two models, side by side."""
    if find_spec("matplotlib") is None:
        raise typer.TyperException('drift needs matplotlib, which is not installed: pip install "unsway[calibrate]"')
    from steering.calibration.draw_drift import Chat, read_drift, write
    from steering.model.loading import BUNDLED, load_model

    if prompt is None:
        prompt, opening = PROMPT, OPENING if opening is None else opening
        truth, claim = (TRUTH, CLAIM) if truth is None and claim is None else (truth, claim)
    messages = [{"role": "system", "content": system}] if system else []
    chat = Chat((*messages, {"role": "user", "content": prompt}), opening or "", truth, claim, max_tokens)
    drifts = {}
    for name in dict.fromkeys([model or BUNDLED, *([against] if against else [])]):
        loaded = load_model(name, device=device, dtype=dtype)
        drifts[name] = read_drift(loaded, chat, _encoded(loaded, texts))
    written = write(_short(drifts), chat, out)
    for name, found in _short(drifts).items():
        _print(name, found, chat)
    typer.echo("\n".join(str(path) for path in written))


def _encoded(model: LanguageModel, texts: Path | None) -> list[list[int]]:
    if texts is None:
        return []
    lines = [line for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise typer.BadParameter(f"{texts} holds no text.", param_hint="--texts")
    return [model.tokenizer.encode(line)[: model.layout.context] for line in lines]


def _short(drifts: dict[str, Drift]) -> dict[str, Drift]:
    """Folders by their last names, where these differ."""
    names = [Path(name).name for name in drifts]
    return dict(zip(names, drifts.values(), strict=True)) if len(set(names)) == len(names) else drifts


def _print(name: str, found: Drift, chat: Chat) -> None:
    typer.echo(f"{name}: {found.answer}")
    read = found.decided
    columns = [("drift, bits", read.drift)]
    if read.truth is not None and read.claim is not None:
        columns += [(f"P({chat.truth})", read.truth), (f"P({chat.claim})", read.claim)]
    L = len(read.drift)
    rows = [
        (str(layer + 1) if layer + 1 < L else "output", *(f"{values[layer, 0]:.3f}" for _, values in columns))
        for layer in range(L)
    ]
    print_table((f"layer, {found.lens} lens", *(title for title, _ in columns)), rows)
