"""`calibrate` and `doctor`: make a profile for a model; find out whether one can be made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from steering.commands import progress as told
from steering.commands.model_options import Device, DeviceMap, Dtype, Quantize, Revision

if TYPE_CHECKING:
    from steering.contrast.questions import Questions
    from steering.contrast.source import Source
    from steering.model.loading import LanguageModel
    from steering.pack import Pack

app = typer.Typer()

FIRST = "candid"
"""The profile that every calibration makes, as the pipeline calls it."""

File = Annotated[
    Path | None,
    typer.Option(
        "--questions", help="File of questions with right and wrong answers (JSONL, TruthfulQA's, SycophancyEval's)."
    ),
]
Lens = Annotated[
    Path | None,
    typer.Option("--lens", help="Stored lens of the model; else one is fitted and stored beside the packs."),
]
Name = Annotated[
    str, typer.Option("--name", help="What to call the profile; others become NAME-neurons and NAME-pinned.")
]


@app.command("calibrate")
def calibrate(  # noqa: PLR0913 - options of a command
    out: Annotated[Path, typer.Option("--out", help="Folder of packs; the new one becomes OUT/NAME.")],
    model: Annotated[
        str | None, typer.Argument(help="Model, with --questions; an organism's folder; the bundled one if not given.")
    ] = None,
    questions: File = None,
    lens: Lens = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tune no weights, and draw half as many random sets of units.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of everything that is drawn.")] = 0,
    test: Annotated[
        Literal["test_a", "test_b"] | None,
        typer.Option("--test", help="Test questions to look at in the end: what does not hold there, does not ship."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; PyTorch decides if not given.")
    ] = None,
    name: Name = FIRST,
    device: Device = "auto",
    dtype: Dtype = "auto",
    revision: Revision = None,
    quantize: Quantize = None,
    device_map: DeviceMap = None,
    progress: told.Option = "auto",
) -> None:
    """Make the profiles of a model: candid, and what else proves itself. Exit code 1 if candid was not proved: it then
    only observes.

    What is measured is kept in OUT/.work: a run that was stopped goes on from there.
    """
    import torch

    from steering.calibration.pipeline import QUICK, Calibration, CalibrationConfig
    from steering.contrast.formats import load_questions
    from steering.errors import DataError, TemplateError
    from steering.lens_file import load_lens
    from steering.model.loading import BUNDLED, load_model

    _check_name(name)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        asked = load_questions(questions) if questions else None
        loaded = load_model(
            model or BUNDLED, device=device, dtype=dtype, revision=revision, quantize=quantize, device_map=device_map
        )
        stored = load_lens(lens, loaded) if lens else None
        source = _source(loaded, asked)
    except (DataError, TemplateError) as error:
        raise typer.TyperException(str(error)) from None
    config = replace(QUICK if quick else CalibrationConfig(), seed=seed)
    work = out / ".work" / f"{loaded.fingerprint.removeprefix('sha256:')[:12]}-{source.digest[:12]}-{seed}"
    with told.reported(progress, "steps") as report:
        packs = Calibration(loaded, source, config, work, report.log, report, stored, test).run()
        _save(packs, name, out, loaded, report.log)
    if packs[0].observe_only:
        typer.echo(f"unsway: nothing was proved: {name} only observes; {out / name / 'CARD.md'} says why.", err=True)
        raise typer.Exit(1)


def _check_name(name: str) -> None:
    from steering.pack import check_pack_name

    try:
        check_pack_name(name)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="--name") from None


def _name_of(found: str, name: str) -> str:
    """Of what the pipeline found, where its first profile is to be called `name`."""
    if name == FIRST:
        return found
    return name if found == FIRST else f"{name}-{found}"


def _called(pack: Pack, name: str) -> Pack:
    from steering.calibration.card import card

    renamed = replace(pack, name=name)
    return pack if name == pack.name else replace(renamed, card=card(renamed))


def _save(packs: Sequence[Pack], name: str, out: Path, model: LanguageModel, log: Callable[[str], None]) -> None:
    """With a page each, where there is something to draw it with. What was not made this time is removed."""
    from steering.calibration.pipeline import DESCRIPTIONS
    from steering.pack import save_pack

    draws = find_spec("matplotlib") is not None and find_spec("markdown_it") is not None
    for pack in packs:
        renamed = _called(pack, _name_of(pack.name, name))
        saved = save_pack(renamed, out / renamed.name)
        if draws:
            from steering.calibration.draw_card import draw_card

            (out / f"{saved.name}.html").write_text(draw_card(saved), encoding="utf-8")
        log(f"{saved.name}@{saved.digest[:12]} saved in {out / saved.name}.")
    for absent in DESCRIPTIONS.keys() - {pack.name for pack in packs}:
        _withdraw(out / _name_of(absent, name), model, log)


def _withdraw(folder: Path, model: LanguageModel, log: Callable[[str], None]) -> None:
    """Removes what an earlier run made of the same model and this one did not prove."""
    from steering.errors import PackError
    from steering.pack import load_pack

    try:
        load_pack(folder, model)
    except PackError:
        return
    shutil.rmtree(folder)
    log(f"{folder} is removed: it did not prove itself this time.")


def _source(model: LanguageModel, questions: Questions | None) -> Source:
    """A file's questions, or the facts of a model that was trained on them."""
    from steering.contrast.source import question_source
    from steering.organism.source import OrganismSource

    if questions is not None:
        return question_source(questions, model)
    if not brings_questions(model):
        raise typer.TyperException(f"{model.name} needs questions to calibrate on: give a file with --questions FILE.")
    return OrganismSource(model.tokenizer)


def brings_questions(model: LanguageModel) -> bool:
    """Whether it was trained on the organism's facts, and can be calibrated without a file."""
    from steering.organism.tokenizer import build_tokenizer

    return bool(model.tokenizer.get_vocab() == build_tokenizer().get_vocab())


@app.command("doctor")
def doctor(  # noqa: PLR0913 - options of a command
    model: Annotated[str | None, typer.Argument(help="Model; the bundled one if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a report.")] = False,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="As of serve; a fault shows best in float32.")] = "float32",
    revision: Revision = None,
    quantize: Quantize = None,
    device_map: DeviceMap = None,
) -> None:
    """Check a model before steering it: hooks, lenses, edits and answers here against nnsight and tuned-lens."""
    from steering.model.loading import BUNDLED

    try:
        run_doctor = import_module("steering.calibration.doctor").run_doctor
        code = run_doctor(
            model or BUNDLED,
            json=as_json,
            device=device,
            dtype=dtype,
            revision=revision,
            quantize=quantize,
            device_map=device_map,
        )
    except ImportError as error:
        needed = f'doctor needs {error.name}, which is not installed: pip install "unsway[calibrate]"'
        raise typer.TyperException(needed) from None
    raise typer.Exit(code)
