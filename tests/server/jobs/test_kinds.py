"""What a job's command is told is what the command takes, and what it leaves is read (L5)."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import steering.cli
from server.errors import ApiError
from server.jobs import obstacles
from server.jobs.job import Asked, Job
from server.jobs.kinds import KINDS, PACKS, REPORT, evaluated
from server.serving import Served
from server.settings import Settings
from steering.calibration.pipeline import Calibration
from steering.model import free_memory
from steering.model.loading import LanguageModel
from steering.pack import Pack, load_pack
from steering.store import PackStore
from steering.uploads import Writer
from tests.command_line import Outcome, unsway
from tests.evaluation.fakes import write_data
from tests.packs import simple_pack
from tests.server.fake_engine import FakeEngine
from tests.server.uploads import MODEL, ONE, ONE_DIGEST, with_uploads

PROGRAM = ["-P", "-m", "server.jobs.child", "3"]
EVALUATION: dict[str, Any] = {
    "suites": ["answer", "nlp"],
    "profiles": [],
    "system": "--be hönest\r\n",
    "limit": 2,
    "seed": 4,
    "deterministic": True,
    "fail_under": [],
    "fail_over": ["accuracy_neutral=0.99"],
}


@pytest.fixture
def settings(tiny_folder: Path, tmp_path: Path) -> Settings:
    data = write_data(tmp_path / "data")
    return Settings(
        model=str(tiny_folder), jobs=tmp_path, benchmarks=data, device="cpu", dtype="float32", job_niceness=3
    )


@pytest.fixture
def served(model: LanguageModel, store: PackStore) -> Served:
    return Served(model, FakeEngine(model), store, None, 1)  # type: ignore[arg-type]


def job(kind: str, parameters: dict[str, Any]) -> Job:
    return Job("job_1", Asked(kind, "me", parameters, "sha256:0"), "running", 0.0)


def run(kind: str, parameters: dict[str, Any], folder: Path, settings: Settings, served: Served) -> Outcome:
    """The very command line, in this process."""
    folder.mkdir(exist_ok=True)
    _, *arguments = KINDS[kind].command(job(kind, parameters), folder, settings, served)
    assert "hönest" not in str(arguments), "everybody on the machine can read them"
    assert arguments[:4] == PROGRAM and "--progress" in arguments
    return unsway(*arguments[4:], main=steering.cli.main)


def test_an_evaluation(settings: Settings, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steering.evaluation.user_belief.MAX_TOKENS", 4)
    firm = f"firm@{served.store.get('firm').digest[:12]}"
    outcome = run("evaluate", EVALUATION | {"profiles": [firm]}, tmp_path / "job", settings, served)
    assert outcome.code == 0, outcome.err
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert all(line.keys() <= {"stage", "done", "total", "unit", "eta_s", "message", "log"} for line in lines)
    assert {line["unit"] for line in lines if "stage" in line} == {"answers"}
    report = evaluated(job("evaluate", EVALUATION), tmp_path / "job", served, print)["report"]
    assert list(report["suites"]) == ["answer", "nlp"] and list(report["conditions"]) == ["off", firm, "system prompt"]
    assert report["conditions"]["system prompt"]["system"] == EVALUATION["system"]
    kept = PackStore(tmp_path / "job" / PACKS, None)
    assert kept.get("firm").digest == served.store.get("firm").digest
    assert (tmp_path / "job" / REPORT / "report.md").exists()


def test_a_profile_that_is_another_by_now_is_not_measured(settings: Settings, served: Served, tmp_path: Path) -> None:
    from steering.errors import PackNotFound

    (tmp_path / "job").mkdir()
    asked = job("evaluate", EVALUATION | {"profiles": ["firm@000000000000"]})
    with pytest.raises(PackNotFound):
        KINDS["evaluate"].command(asked, tmp_path / "job", settings, served)


def test_profiles_are_copied_as_one(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that comes meanwhile has to wait."""
    served = with_uploads(tmp_path / "up", FakeEngine(MODEL))
    uploads, by = served.uploads, Writer("me", is_admin=False)
    assert uploads is not None
    part = uploads.folder.part()
    part.write_bytes(ONE)
    uploads.put("mine", part, by, "absent")
    change = threading.Thread(target=uploads.delete, args=("mine", by))
    copytree = shutil.copytree

    def slowly(source: Path, target: Path) -> None:
        change.start()
        change.join(0.3)
        copytree(source, target)

    monkeypatch.setattr(shutil, "copytree", slowly)
    asked = job("evaluate", EVALUATION | {"profiles": [f"mine@{ONE_DIGEST[:12]}"]})
    KINDS["evaluate"].command(asked, tmp_path, settings, served)
    change.join(10)
    assert load_pack(tmp_path / PACKS / "mine", MODEL).digest == ONE_DIGEST and "mine" not in uploads
    uploads.close()


@pytest.mark.parametrize("own", [True, False], ids=["questions", "none"])
def test_a_calibration(
    settings: Settings, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    questions = [{"question": f"What is {i}?", "correct": ["Paris"], "incorrect": ["Lyon"]} for i in range(40)]
    seen: list[Calibration] = []

    def run_one(self: Calibration) -> list[Pack]:
        seen.append(self)
        return [simple_pack(self.model, name="candid")]

    monkeypatch.setattr(Calibration, "run", run_one)
    monkeypatch.setattr("steering.calibration.card.card", lambda pack: f"# {pack.name}\n")
    asked = {"profile": "steady", "questions": questions if own else None, "quick": True, "seed": 3, "test": "test_a"}
    here = settings if own else replace(settings, model=Settings().model)
    outcome = run("calibrate", asked, tmp_path / "job", here, served)
    assert outcome.code == 0, outcome.err
    (calibration,) = seen
    assert calibration.config.seed == 3 and not calibration.config.tunes and calibration.test == "test_a"
    assert calibration.source.name == ("questions.jsonl" if own else "organism")
    assert load_pack(tmp_path / "job" / PACKS / "steady", calibration.model).name == "steady"


@pytest.mark.parametrize("left", ["", '{"question": "Wh'], ids=["none", "half"])
def test_L5_a_calibration_with_questions_begins_again(
    settings: Settings, served: Served, tmp_path: Path, left: str
) -> None:
    asked = {"profile": "steady", "questions": [{"question": "é?", "correct": ["so"]}], "quick": True, "seed": 3}
    commands, texts = [], []
    for _ in range(2):
        command = KINDS["calibrate"].command(job("calibrate", asked | {"test": None}), tmp_path, settings, served)
        commands.append(command)
        texts.append((tmp_path / "questions.jsonl").read_text())
        (tmp_path / "questions.jsonl").write_text(left or texts[0])
    assert commands[0] == commands[1] and texts[0] == texts[1]
    assert json.loads(texts[0]) == {"question": "é?", "correct": ["so"]}


def test_how_much_memory_it_takes_is_more_than_the_model(model: LanguageModel) -> None:
    asked = {"quick": True, "test": None}
    quick, whole, tested = (
        KINDS["calibrate"].memory(asked | more, model)
        for more in ({}, {"quick": False}, {"quick": False, "test": "test_a"})
    )
    assert model.nbytes == sum(p.numel() * 4 for p in model.hf.parameters())
    assert model.nbytes < quick < whole < tested
    settled, usual = (KINDS["evaluate"].memory({"deterministic": one}, model) for one in (True, False))
    assert settled >= usual > model.nbytes


def test_what_stands_in_the_way(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked("evaluate", "me", EVALUATION, served.model.fingerprint)
    kind = KINDS["evaluate"]

    def in_the_way(about: Asked = asked) -> ApiError | None:
        return obstacles.obstacle(about, kind, lambda: served, tmp_path)

    needed = kind.memory(EVALUATION, served.model)
    reserved = served.engine.kv.budget - served.engine.kv_bytes
    monkeypatch.setattr(obstacles, "free_memory", lambda device: needed + reserved)
    assert in_the_way() is None
    monkeypatch.setattr(obstacles, "free_memory", lambda device: needed + reserved - 1)
    assert (error := in_the_way()) and error.code == "over_memory_budget" and "1 GiB" in error.message
    monkeypatch.setattr(obstacles, "free_memory", lambda device: None)
    assert in_the_way() is None, "nobody knows"
    assert (error := in_the_way(replace(asked, model="sha256:1"))) and "another model" in error.message

    def loading() -> Served:
        raise ApiError("model_loading", "The model is still loading.")

    assert (error := obstacles.obstacle(asked, kind, loading, tmp_path)) and error.code == "model_loading"


def test_free_memory_is_what_the_group_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    whole = free_memory.free_memory(cpu)
    assert whole is not None and 0 < whole < 2**50
    assert free_memory.free_memory(torch.device("meta")) is None
    for name, text in (("memory.max", "5000000"), ("memory.current", "4000000")):
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "memory.stat").write_text("anon 3500000\ninactive_file 300000\n")
    monkeypatch.setattr(free_memory, "_CGROUPS", tmp_path)
    assert list(free_memory._free_in(tmp_path)) == [1_300_000]
    (tmp_path / "memory.max").write_text("max\n")
    assert list(free_memory._free_in(tmp_path)) == []
