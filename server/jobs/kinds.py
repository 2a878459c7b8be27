"""What a job can be: which command does it, what it leaves behind, how much memory it takes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.jobs.job import Job
from server.jobs.publish import Audit, publish
from server.serving import Served
from server.settings import Settings
from steering.model.loading import LanguageModel

QUESTIONS = "questions.jsonl"
SYSTEM = "system.txt"
"""A prompt is a file, not an argument, which everybody on the machine could read."""
PACKS = "packs"
REPORT = "report"


@dataclass(frozen=True)
class Kind:
    command: Callable[[Job, Path, Settings, Served], list[str]]
    """The program that does it in a folder, with its arguments. Called again after an interruption, which may have come
    in the midst of it: what was done is found in the folder. Raises OSError or `SteeringError`."""
    result: Callable[[Job, Path, Served, Audit], Any]
    """JSON of what it left in the folder, where it ended with 0 or 1. Raises OSError, ValueError or `SteeringError`.
    Called again where its record was not written."""
    memory: Callable[[Mapping[str, Any], LanguageModel], int]
    """Bytes on the model's device that it takes, by its parameters; about."""


def calibrate_command(job: Job, folder: Path, settings: Settings, served: Served) -> list[str]:
    asked = job.asked.parameters
    arguments = ["--out", str(folder / PACKS), "--name", asked["profile"], "--seed", str(asked["seed"])]
    if asked["questions"] is not None:
        lines = [json.dumps(question) + "\n" for question in asked["questions"]]
        (folder / QUESTIONS).write_text("".join(lines), encoding="utf-8")
        arguments += ["--questions", str(folder / QUESTIONS)]
    arguments += ["--quick"] * asked["quick"]
    arguments += ["--test", asked["test"]] if asked["test"] else []
    return [*unsway("calibrate", settings), *arguments, *_model(settings)]


def evaluate_command(job: Job, folder: Path, settings: Settings, served: Served) -> list[str]:
    """Profiles are copied first: what is measured after an interruption is what was measured before it."""
    asked = job.asked.parameters
    (folder / PACKS).mkdir(exist_ok=True)
    for reference in asked["profiles"]:
        name, _, digest = reference.partition("@")
        if not (folder / PACKS / name).exists():
            copied = folder / PACKS / f".{name}"
            shutil.rmtree(copied, ignore_errors=True)
            with served.unchanged():
                served.store.get(name, digest)
                shutil.copytree(served.store.folder(name), copied)
            copied.rename(folder / PACKS / name)
    arguments = ["--suite", ",".join(asked["suites"]), "--data", str(settings.benchmarks)]
    arguments += ["--out", str(folder / REPORT), "--seed", str(asked["seed"])]
    (folder / SYSTEM).write_bytes(asked["system"].encode())
    arguments += ["--system-file", str(folder / SYSTEM)]
    arguments += [part for name in asked["profiles"] for part in ("--steering", name)]
    arguments += ["--limit", str(asked["limit"])] if asked["limit"] else []
    arguments += ["--deterministic"] * asked["deterministic"]
    arguments += [f"--fail-under={goal}" for goal in asked["fail_under"]]
    arguments += [f"--fail-over={goal}" for goal in asked["fail_over"]]
    arguments += ["--packs", str(folder / PACKS)]
    return [*unsway("eval", settings), *arguments, *_model(settings)]


def calibrated(job: Job, folder: Path, served: Served, audit: Audit) -> Any:
    """The profiles that were made, and are served from now on."""
    made = publish(folder / PACKS, job, served, audit)
    if not made:
        raise ValueError("no profile was made")
    return {"profiles": made}


def evaluated(job: Job, folder: Path, served: Served, audit: Audit) -> Any:
    return {"report": json.loads((folder / REPORT / "report.json").read_text(encoding="utf-8"))}


def calibrate_memory(parameters: Mapping[str, Any], model: LanguageModel) -> int:
    from steering.calibration.memory import memory_needed

    return memory_needed(model, tunes=not parameters["quick"], tests=parameters["test"] is not None)


def evaluate_memory(parameters: Mapping[str, Any], model: LanguageModel) -> int:
    from steering.evaluation.memory import memory_needed

    return memory_needed(model, deterministic=parameters["deterministic"])


KINDS: Mapping[str, Kind] = {
    "calibrate": Kind(calibrate_command, calibrated, calibrate_memory),
    "evaluate": Kind(evaluate_command, evaluated, evaluate_memory),
}


def unsway(command: str, settings: Settings) -> list[str]:
    """That command in a process of its own; -P, or a folder in which somebody works could stand before this package."""
    program = [sys.executable, "-P", "-m", "server.jobs.child", str(settings.job_niceness)]
    return [*program, command, "--progress", "json"]


def _model(settings: Settings) -> Iterator[str]:
    """The model that is served, as it is served."""
    yield from ("--device", settings.device, "--dtype", settings.dtype)
    for name in ("revision", "quantize", "device_map"):
        if (value := getattr(settings, name)) is not None:
            yield from (f"--{name.replace('_', '-')}", value)
    yield from ("--", settings.model)
