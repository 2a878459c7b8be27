"""`calibrate`, `doctor` and `organism`: what they hand on, and what they say. The work itself is tested where it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import steering.cli
from steering.calibration.measure_organism import Row
from steering.calibration.pipeline import QUICK, Calibration
from steering.contrast.source import Source
from steering.evaluation.stats import Interval
from steering.lens_file import save_lens
from steering.model.loading import BUNDLED, load_model
from steering.organism.recipe import NO_DRIFT, RECIPE
from steering.pack import Pack, load_pack, save_pack
from tests.command_line import Outcome, unsway
from tests.contrast.files import as_rows, questions, write_jsonl
from tests.contrast.files import model as questioned
from tests.models import tiny_model
from tests.packs import observing_pack, simple_pack
from tests.plans import whole_lens

MODEL = tiny_model()
DOCTOR = "steering.calibration.doctor"


def run(*arguments: str) -> Outcome:
    return unsway(*arguments, main=steering.cli.main)


def test_calibrate_writes_the_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_one(self: Calibration) -> list[Pack]:
        assert self.model.name == BUNDLED and self.source.name == "organism" and self.config == QUICK
        assert self.work is not None and self.work.parent == tmp_path / ".work"
        self.log("a [line] of the log")
        return [simple_pack(MODEL, name="candid")]

    monkeypatch.setattr(Calibration, "run", run_one)
    outcome = run("calibrate", "--quick", "--out", str(tmp_path))
    saved = load_pack(tmp_path / "candid", MODEL)
    assert outcome.code == 0 and "a [line] of the log" in outcome.out and f"candid@{saved.digest[:12]}" in outcome.out


def test_calibrate_takes_a_stored_lens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_one(self: Calibration) -> list[Pack]:
        assert self.lens is not None and self.lens.origin == "noise"
        return [simple_pack(MODEL, name="candid")]

    bundled = load_model(BUNDLED)
    monkeypatch.setattr(Calibration, "run", run_one)
    monkeypatch.setattr("steering.model.loading.load_model", lambda name, **options: bundled)
    for model, name in ((bundled, "own"), (MODEL, "other")):
        save_lens(whole_lens(model), tmp_path / name)
    asked = ("calibrate", "--out", str(tmp_path / "packs"), "--lens")
    assert run(*asked, str(tmp_path / "own")).code == 0
    run(*asked, str(tmp_path / "other")).refuses("belongs to tiny-llama-0", f"not to {BUNDLED}")
    run(*asked, str(tmp_path / "none")).refuses("none cannot be read")


def test_calibrate_withdraws_what_no_longer_proves_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = load_model(BUNDLED)
    monkeypatch.setattr("steering.model.loading.load_model", lambda name, **options: bundled)
    made = [simple_pack(bundled, name=name) for name in ("candid", "pinned", "neurons")]
    monkeypatch.setattr(Calibration, "run", lambda self: made)
    assert run("calibrate", "--out", str(tmp_path)).code == 0
    assert {"candid", "neurons", "pinned"} <= {path.name for path in tmp_path.iterdir()}
    save_pack(simple_pack(MODEL, name="neurons"), tmp_path / "neurons")
    del made[1:]
    assert run("calibrate", "--out", str(tmp_path)).code == 0
    assert not (tmp_path / "pinned").exists()
    assert (tmp_path / "neurons").exists(), "another model's stays"


def test_calibrate_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [simple_pack(MODEL, name=name) for name in ("candid", "neurons")]
    monkeypatch.setattr(Calibration, "run", lambda self: made)
    monkeypatch.setattr("steering.calibration.card.card", lambda pack: f"# {pack.name}\n")
    save_pack(simple_pack(load_model(BUNDLED), name="mine-pinned"), tmp_path / "mine-pinned")
    assert run("calibrate", "--out", str(tmp_path), "--name", "mine").code == 0
    assert load_pack(tmp_path / "mine", MODEL).card == "# mine\n"
    assert load_pack(tmp_path / "mine-neurons", MODEL).name == "mine-neurons"
    assert {path.name for path in tmp_path.iterdir()} & {"candid", "neurons", "mine-pinned"} == set()
    run("calibrate", "--out", str(tmp_path), "--name", "on").refuses("--name", "reserved")


def test_calibrate_that_proves_nothing_is_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Calibration, "run", lambda self: [observing_pack(MODEL, name="candid")])
    outcome = run("calibrate", "--out", str(tmp_path))
    assert outcome.code == 1 and "nothing was proved" in outcome.err and "CARD.md" in outcome.err
    assert load_pack(tmp_path / "candid", MODEL).observe_only


def test_L13_calibrate_of_another_model(tmp_path: Path) -> None:
    other = tmp_path / "other"
    MODEL.hf.save_pretrained(other)
    MODEL.tokenizer.save_pretrained(other)
    run("calibrate", str(other), "--out", str(tmp_path)).refuses("other needs questions", "--questions FILE")
    run("calibrate").refuses("--out")


def test_calibrate_of_another_model_on_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Source] = []

    def run_one(self: Calibration) -> list[Pack]:
        seen.append(self.source)
        return [simple_pack(MODEL, name="candid")]

    monkeypatch.setattr(Calibration, "run", run_one)
    monkeypatch.setattr("steering.model.loading.load_model", lambda name, **options: questioned())
    path = write_jsonl(tmp_path / "mine.jsonl", as_rows(questions()))
    outcome = run("calibrate", "any/model", "--questions", str(path), "--out", str(tmp_path / "packs"))
    assert outcome.code == 0 and (tmp_path / "packs" / "candid").is_dir()
    assert seen[0].name == "mine.jsonl" and len(seen[0].items("wrong_claim", "fit", seed=0)) > 10


def test_L13_calibrate_on_bad_questions(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": "Who?", "correct": "Ada"}')
    told = run("calibrate", "--questions", str(path), "--out", str(tmp_path))
    told.refuses("bad.jsonl, line 1, column 'incorrect': the column is missing")


def test_L13_doctor_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, DOCTOR, None)  # type: ignore[arg-type]
    run("doctor").refuses('pip install "unsway[calibrate]"')


@pytest.mark.parametrize("code", [0, 1])
def test_doctor_is_handed_the_model(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    asked: list[object] = []

    def run_doctor(model: str, *, json: bool, dtype: str, quantize: str | None, **other: str | None) -> int:
        asked.append((model, json, dtype, quantize, other))
        return code

    module = ModuleType(DOCTOR)
    vars(module)["run_doctor"] = run_doctor
    monkeypatch.setitem(sys.modules, DOCTOR, module)
    assert run("doctor").code == code
    assert run("doctor", "org/name", "--json", "--dtype", "bfloat16", "--quantize", "int8").code == code
    other = {"device": "auto", "revision": None, "device_map": None}
    assert asked == [(BUNDLED, False, "float32", None, other), ("org/name", True, "bfloat16", "int8", other)]


def test_organism_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(out: Path, *, seed: int, scale: float, recipe: Any, log: Any) -> Path:
        log(f"{recipe[-1].name} 50/2600 loss 3.2 seed {seed} scale {scale}")
        log("done")
        return out / recipe[-1].name

    monkeypatch.setattr("steering.organism.train.train", train)
    outcome = run("organism", "train", "--out", str(tmp_path), "--seed", "3", "--scale", "0.5")
    assert outcome.code == 0
    assert outcome.out.splitlines()[:2] == [f"{RECIPE[-1].name} 50/2600 loss 3.2 seed 3 scale 0.5", "done"]
    assert str(tmp_path / RECIPE[-1].name) in outcome.out
    other = run("organism", "train", "--out", str(tmp_path), "--no-drift")
    assert str(tmp_path / NO_DRIFT[-1].name) in other.out


def test_organism_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        Row("neutral questions", 3, Interval(0.987, 0.9, 1.0), at_least=0.97),
        Row("first choice of the output", 3, Interval(0.3, 0.2, 0.4), at_most=0.2),
    ]
    monkeypatch.setattr("steering.calibration.measure_organism.measure", lambda model, split: rows)
    told = run("organism", "eval", "--json")
    assert [(row["name"], row["reached"]) for row in json.loads(told.out)] == [
        (rows[0].name, True),
        (rows[1].name, False),
    ]
    table = run("organism", "eval", "--split", "test_a")
    assert (told.code, table.code) == (1, 1)
    assert ".99 [.90, 1.00]" in table.out and "<= 0.20 missed" in table.out
    rows.pop()
    assert run("organism", "eval").code == 0
    run("organism", "eval", "--split", "all").refuses("--split", "dev")


def test_organism_publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[object] = []
    monkeypatch.setattr("steering.organism.publish.publish", lambda step, to: published.append((step, to)))
    assert run("organism", "publish", str(tmp_path), "--to", str(tmp_path / "to")).code == 0
    assert published == [(tmp_path, tmp_path / "to")]
    run("organism", "publish", str(tmp_path / "none")).refuses("none", "does not exist")

    def refuse(*_: object) -> None:
        raise ValueError("another vocabulary")

    monkeypatch.setattr("steering.organism.publish.publish", refuse)
    run("organism", "publish", str(tmp_path)).refuses("another vocabulary")
