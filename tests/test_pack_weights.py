"""Changed weights in packs: forged units and tensors do not get through, and people can see what is in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import steering.cli
from steering.correction import EVERYWHERE, WeightCorrection
from steering.errors import PackCorrupt
from steering.model.loading import wrap
from steering.pack import Overrides, load_pack, save_pack
from steering.unit import Unit
from tests.command_line import unsway
from tests.models import byte_tokenizer, tiny_hf, tiny_model
from tests.packs import full_pack, tuned_pack
from tests.plans import sparse_weights
from tests.test_pack_corrupt import drop, forge, forge_tensors, put, refused

MODEL = tiny_model()
EDIT = ("corrections", 0, "edit")
UNITS = [str(unit) for unit in sparse_weights(MODEL.layout).units]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pack(tuned_pack(MODEL), tmp_path / "pack")
    return tmp_path / "pack"


FORGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no units": (put(*EDIT, "units", value=[]), "has 264 rows; these units have 0"),
    "a unit twice": (put(*EDIT, "units", value=[UNITS[0], UNITS[0], *UNITS[2:]]), "ascending order, each once"),
    "units out of order": (put(*EDIT, "units", value=[UNITS[1], UNITS[0], *UNITS[2:]]), "ascending order"),
    "a unit too few": (put(*EDIT, "units", value=UNITS[:-1]), "has 264 rows; these units have 261"),
    "group out of range": (put(*EDIT, "units", 2, value="group.2.2"), "group 2 is out of range 0..1"),
    "neuron out of range": (put(*EDIT, "units", -1, value="neuron.2.128"), "neuron 128 is out of range 0..127"),
    "layer out of range": (put(*EDIT, "units", -1, value="neuron.4.1"), "layer 4 is out of range 0..3"),
    "unit of another kind": (put(*EDIT, "units", 0, value="expert.1.0"), "a unit reads like 'group.12.3'"),
    "unit with a leading zero": (put(*EDIT, "units", 0, value="group.1.00"), "a unit reads like"),
    "unit is a number": (put(*EDIT, "units", 0, value=1), "a unit reads like"),
    "units are a string": (put(*EDIT, "units", value="group.1.0"), "units has the wrong type"),
    "no units at all": (drop(*EDIT, "units"), "'units' is missing"),
    "no tensor": (put(*EDIT, "tensors", value={}), "'deltas' is missing"),
    "another tensor": (put(*EDIT, "tensors", "deltas", value="elsewhere"), "not in the tensor file"),
    "another kind": (put(*EDIT, "kind", value="set"), "must be sparse_weights at the weights"),
    "at a site": (put("corrections", 0, "site", value="attn_z.1"), "edit"),
    "at the logits": (put("corrections", 0, "site", value="logits"), "edit"),
    "in the completion only": (
        put("corrections", 0, "gate", "phases", value=["completion"]),
        "their gate can be no other",
    ),
    "lens above a unit": (
        put(
            "detector",
            value={"lens": {"kind": "logit", "tensors": {}, "layer": 2}, "threshold": 0.5, "num_candidates": 8},
        ),
        "must lie below every corrected block (lowest: 1)",
    ),
}


@pytest.mark.parametrize("case", FORGED)
def test_T3_T6_forged_units(folder: Path, case: str) -> None:
    change, expected = FORGED[case]
    forge(folder, change)
    refused(folder, expected)


TENSORS: dict[str, tuple[Tensor, str]] = {
    "too few rows": (torch.ones(263, 64), "has 263 rows; these units have 264"),
    "transposed": (torch.ones(64, 264), "has shape [64, 264]; expected [rows, 64]"),
    "rank 1": (torch.ones(264 * 64), "expected [rows, 64]"),
    "empty": (torch.ones(0, 64), "has 0 rows"),
    "mask": (torch.ones(264, 64, dtype=torch.bool), "has type torch.bool"),
    "float64": (torch.ones(264, 64, dtype=torch.float64), "is none of"),
    "NaN": (torch.full((264, 64), torch.nan), "not finite"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_T9_T10_wrong_deltas(folder: Path, case: str) -> None:
    tensor, expected = TENSORS[case]
    forge_tensors(folder, safetensors.torch.save({"corrections.0.deltas": tensor}))
    refused(folder, expected)


@pytest.mark.parametrize("name", ["pack.json", "tensors.safetensors"])
def test_L8_flipped_byte_anywhere(folder: Path, name: str) -> None:
    raw = (folder / name).read_bytes()
    for at in range(0, len(raw), max(1, len(raw) // 60)):
        (folder / name).write_bytes(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
        refused(folder)


def test_T10_deltas_that_overflow_the_models_dtype(tmp_path: Path) -> None:
    half = wrap(tiny_hf().to(torch.bfloat16), byte_tokenizer(), "half")
    (correction,) = tuned_pack(MODEL).weight_corrections
    large = replace(correction, edit=replace(correction.edit, deltas=correction.edit.deltas + 3.4e38))
    save_pack(tuned_pack(MODEL, weight_corrections=(large,)), tmp_path / "pack")
    with pytest.raises(PackCorrupt, match=r"not finite in torch\.bfloat16"):
        load_pack(tmp_path / "pack", half)
    save_pack(tuned_pack(MODEL), tmp_path / "pack")
    assert load_pack(tmp_path / "pack", half).weight_corrections[0].edit.deltas.dtype == torch.bfloat16


def test_without_a_model_units_are_only_read(folder: Path) -> None:
    forge(folder, put(*EDIT, "units", -1, value="neuron.9.5000"))
    assert load_pack(folder, None).weight_corrections[0].edit.units[-1] == Unit("neuron", 9, 5000)
    forge(folder, put(*EDIT, "units", -1, value="neuron"))
    with pytest.raises(PackCorrupt, match="a unit reads like"):
        load_pack(folder, None)


def test_overrides_that_change_nothing_keep_the_object() -> None:
    pack = tuned_pack(MODEL)
    for overrides in (Overrides(), Overrides(gate="always", phases=EVERYWHERE.phases), Overrides(strength=0.5)):
        plan = pack.plan(overrides)
        assert plan.weight_corrections[0] is pack.weight_corrections[0]
        assert plan.acts and plan.steers_prompt
    assert not pack.plan(Overrides(strength=0)).steers_prompt


def test_impossible_names_and_strengths() -> None:
    (correction,) = tuned_pack(MODEL).weight_corrections
    for changes, expected in (
        ({"name": "A b"}, "names"),
        ({"strength": float("nan")}, "finite"),
        ({"name": "push"}, "uni"),
    ):
        with pytest.raises(ValueError, match=expected):
            full_pack(MODEL, weight_corrections=(replace(correction, **changes),))
    with pytest.raises(ValueError, match="early layer"):
        tuned_pack(
            MODEL, detector=replace(full_pack(MODEL).detector, lens=replace(full_pack(MODEL).detector.lens, layer=2))
        )


def test_show(tmp_path: Path) -> None:
    correction = tuned_pack(MODEL).weight_corrections[0]
    few = WeightCorrection("few", replace(correction.edit, units=(Unit("group", 1, 0),), deltas=torch.ones(80, 64)))
    save_pack(tuned_pack(MODEL, weight_corrections=(correction, few)), tmp_path / "tuned")
    shown = json.loads(unsway("packs", "show", "tuned", "--packs", str(tmp_path), "--json", main=steering.cli.main).out)
    assert shown["corrections"][0] == {
        "name": "tuned-0",
        "site": "weights",
        "edit": "SparseWeights",
        "gate": "always",
        "phases": "completion and prompt",
        "strength": 0.5,
        "units": UNITS,
    }
    out = unsway("packs", "show", "tuned", "--packs", str(tmp_path), main=steering.cli.main).out
    assert f"{' '.join(UNITS[:6])} ... (11 units)" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert rows["few"].split()[1:3] == ["group.1.0", "SparseWeights"]
    card = (tmp_path / "tuned" / "CARD.md").read_text()
    assert "| few | group.1.0 | sparse_weights | always |" in card and "(11 units)" in card
