"""`packs list|show|verify`, as `python -m steering` has them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

import steering.cli
from steering.correction import Correction
from steering.edit import Shift
from steering.errors import PackCorrupt
from steering.pack import load_pack, save_pack
from steering.site import Site
from tests.command_line import Outcome, unsway
from tests.models import byte_tokenizer, tiny_hf, tiny_model
from tests.packs import full_pack, simple_pack
from tests.server.packs import save_packs

MODEL, OTHER = tiny_model(), tiny_model(seed=1)
NAMES = ["alien", "broken", "candid", "firm", "watch"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("packs")
    save_packs(directory, MODEL, OTHER)
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_hf().save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("steering.model.loading.load_model", refuse)


def packs(*arguments: str) -> Outcome:
    return unsway("packs", *arguments, main=steering.cli.main)


@pytest.mark.usefixtures("no_model")
def test_list(folder: Path) -> None:
    outcome = packs("list", "--packs", str(folder), "--json")
    assert outcome.code == 0
    listed = {pack["name"]: pack for pack in json.loads(outcome.out)}
    assert list(listed) == NAMES
    candid = load_pack(folder / "candid", MODEL)
    assert listed["candid"] == {
        "name": "candid",
        "digest": candid.digest,
        "description": "Opens on drift.",
        "model": MODEL.name,
        "fingerprint": MODEL.fingerprint,
        "num_corrections": 1,
        "observe_only": False,
        "detector": {"lens": "LogitLens", "layer": 1, "threshold": 0.05, "num_candidates": 64},
        "max_strength": 2.0,
    }
    assert listed["watch"]["observe_only"] and listed["alien"]["fingerprint"] == OTHER.fingerprint
    assert set(listed["broken"]) == {"name", "broken"} and "tensors.safetensors" in listed["broken"]["broken"]


@pytest.mark.usefixtures("no_model")
def test_list_for_people_has_a_line_a_pack(folder: Path) -> None:
    lines = packs("list", "--packs", str(folder)).out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.strip()}
    assert all(name in rows for name in NAMES)
    assert "LogitLens at layer 1, 0.050 bits" in rows["candid"] and "broken: tensors.safetensors" in rows["broken"]


@pytest.mark.usefixtures("no_model")
def test_show(tmp_path: Path) -> None:
    saved = save_pack(full_pack(MODEL), tmp_path / "full")
    outcome = packs("show", "full", "--packs", str(tmp_path))
    assert outcome.code == 0 and saved.card in outcome.out
    assert all(f"\n {name} " in outcome.out for name in ("groups", "neurons", "push", "erase", "contrast"))
    shown = json.loads(packs("show", "full", "--packs", str(tmp_path), "--json").out)
    assert shown["evidence"] == saved.evidence and shown["card"] == saved.card
    assert shown["corrections"][1] == {
        "name": "neurons",
        "site": "mlp_act.3",
        "edit": "Scale",
        "gate": "drift, latched",
        "phases": "completion",
        "strength": 0.5,
    }
    assert shown["corrections"][4]["site"] == "logits" and shown["corrections"][2]["phases"] == "completion and prompt"


@pytest.mark.usefixtures("no_model")
def test_verify_without_the_model(folder: Path) -> None:
    outcome = packs("verify", "--packs", str(folder), "--json")
    verdicts = {verdict["name"]: verdict for verdict in json.loads(outcome.out)}
    assert outcome.code == 1 and [name for name in NAMES if not verdicts[name]["usable"]] == ["broken"]
    assert "tensors.safetensors does not match its digest" in verdicts["broken"]["reason"]
    assert all(verdict["model"] is None for verdict in verdicts.values())
    whole = packs("verify", "candid", "alien", "--packs", str(folder))
    assert whole.code == 0 and whole.out.count("its model is not checked") == 2


def test_verify_against_the_model(folder: Path, checkpoint: Path) -> None:
    outcome = packs("verify", "--packs", str(folder), "--model", str(checkpoint), "--json")
    verdicts = {verdict["name"]: verdict for verdict in json.loads(outcome.out)}
    assert outcome.code == 1 and [name for name in NAMES if verdicts[name]["usable"]] == ["candid", "firm", "watch"]
    assert "made for" in verdicts["alien"]["reason"]
    fits = packs("verify", "candid", "--packs", str(folder), "--model", str(checkpoint))
    assert fits.code == 0 and "whole, fits" in fits.out


def test_verify_the_bundled_packs() -> None:
    outcome = packs("verify")
    assert outcome.code == 0 and "whole, fits unsway-organism" in outcome.out


@pytest.mark.usefixtures("no_model")
def test_L13_what_is_wrong_is_one_line(folder: Path, tmp_path: Path) -> None:
    packs("show", "nothing", "--packs", str(folder)).refuses("'nothing'", "candid")
    packs("show", "broken", "--packs", str(folder)).refuses("tensors.safetensors")
    packs("verify", "candid", "nothing", "--packs", str(folder)).refuses("'nothing'", "candid")
    packs("list", "--packs", str(tmp_path / "none")).refuses("does not exist")
    packs("list", "--packs", str(tmp_path)).refuses("no packs in")
    packs("list", "--model", "org/name").refuses("org/name", "--packs")


def test_law_a_pack_read_without_its_model_is_the_same_pack(tmp_path: Path) -> None:
    save_pack(full_pack(MODEL), tmp_path / "full")
    with_model, without = (load_pack(tmp_path / "full", model) for model in (MODEL, None))
    again = [save_pack(pack, tmp_path / name) for name, pack in (("a", with_model), ("b", without))]
    assert again[0].digest == again[1].digest == with_model.digest == without.digest


def test_without_a_model_widths_are_held_against_one_another(tmp_path: Path) -> None:
    def save(*widths: int) -> None:
        corrections = tuple(
            Correction(f"push{i}", Site("resid_post", i), Shift(MODEL.hf.lm_head.weight.new_ones(width)))
            for i, width in enumerate(widths)
        )
        save_pack(simple_pack(MODEL, corrections=corrections), tmp_path / "simple")

    save(64, 64)
    assert len(load_pack(tmp_path / "simple", None).corrections) == 2
    save(64, 63)
    with pytest.raises(PackCorrupt, match=r"has shape \[63\]; expected \[64\]"):
        load_pack(tmp_path / "simple", None)


def test_the_library_stands_alone(folder: Path) -> None:
    """Neither the server nor what it is made of needs to be installed."""
    program = f"""
import runpy, sys
for name in ("server", "fastapi", "starlette", "uvicorn"):
    sys.modules[name] = None
sys.argv = ["steering", "packs", "list", "--packs", {str(folder)!r}, "--json"]
runpy.run_module("steering", run_name="__main__")
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert [pack["name"] for pack in json.loads(process.stdout)] == NAMES
