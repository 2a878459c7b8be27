"""Comparing alone, without the packages that are compared with: what passes, what fails, and what it is called."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from steering.calibration.doctor.agreement import (
    TOLERANCES,
    Check,
    Difference,
    agree,
    agree_on_edit,
    agree_on_tokens,
    difference,
    summarise,
)
from steering.calibration.doctor.facts import facts
from steering.calibration.doctor.probe import edits, prompts
from steering.calibration.doctor.report import Report, failures, print_report, to_json
from steering.model.layout import layout_of
from tests.models import sentencepiece_tokenizer, tiny_hf, tiny_model

FLOAT32 = TOLERANCES[torch.float32]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_difference_by_its_definition() -> None:
    reference = torch.tensor([[1.0, 3.0], [10.0, 30.0]])
    found = difference(reference + torch.tensor([[0.3, -0.4], [0.0, 1.0]]), reference)
    assert found.absolute == pytest.approx(1.0)
    assert found.relative == pytest.approx(0.5 / math.sqrt(2))  # row 0: |(.3, -.4)| over the spread |(-1, 1)|


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_relative_difference_knows_no_unit(scale: float) -> None:
    a, b = noise(5, 8), noise(5, 8, seed=1)
    assert difference(scale * a, scale * b).relative == pytest.approx(difference(a, b).relative)


def test_a_share_of_the_tokens_bounds_them_alone() -> None:
    reference, ours = noise(10, 8), noise(10, 8)
    ours[3] += 1.0
    assert difference(ours, reference).relative > 0.1
    assert difference(ours, reference, share=0.5).relative == 0.0
    ours[2:8] += 1.0
    assert difference(ours, reference, share=0.5).relative > 0.1


def test_an_offset_of_the_reference_hides_nothing() -> None:
    a, b = noise(5, 8), noise(5, 8, seed=1)
    assert difference(a + 1000, b + 1000).relative == pytest.approx(difference(a, b).relative, rel=1e-3)


@pytest.mark.parametrize("broken", [noise(4, 8), torch.full((3, 8), math.nan), torch.full((3, 8), math.inf)])
def test_other_shapes_and_broken_numbers_are_infinitely_far(broken: torch.Tensor) -> None:
    assert difference(broken, noise(3, 8)) == Difference(math.inf, math.inf)
    assert difference(noise(3, 8), noise(3, 8)) == Difference(0.0, 0.0)


def test_agreement_is_within_the_tolerance_of_the_dtype() -> None:
    reference = noise(3, 64)
    for tolerance in TOLERANCES.values():
        near, far = (reference + factor * tolerance.relative * noise(3, 64, seed=1) for factor in (0.5, 2.0))
        assert agree("taps", "attn_z", 0, (near, reference), tolerance).passed
        assert not agree("taps", "attn_z", 0, (far, reference), tolerance).passed
    assert agree("taps", "attn_z", 0, (reference[:2], reference), FLOAT32).note == "shape [2, 64], expected [3, 64]"


def test_an_edit_that_changes_nothing_proves_nothing() -> None:
    plain, edited = noise(1, 64), noise(1, 64, seed=1)
    assert agree_on_edit("shift resid_post", 1, (edited, edited), plain, FLOAT32).passed
    idle = agree_on_edit("shift resid_post", 1, (plain, plain), plain, FLOAT32)
    assert not idle.passed and "too little" in idle.note
    assert not agree_on_edit("shift resid_post", 1, (plain, edited), plain, FLOAT32).passed  # only theirs acts
    assert not agree_on_edit("shift resid_post", 1, (edited, plain), plain, FLOAT32).passed  # only ours acts


def test_tokens_may_differ_at_a_tie_alone() -> None:
    logits = torch.zeros(3, 10)
    logits[0, 4], logits[1, 5], logits[2, 6] = 9.0, 9.0, 9.0
    assert agree_on_tokens("text", [4, 5, 6], [4, 5, 6], logits, FLOAT32).passed
    wrong = agree_on_tokens("text", [4, 7, 8], [4, 5, 6], logits, FLOAT32)
    assert not wrong.passed and "token 1 is 7, expected 5" in wrong.note
    logits[1, 7] = 9.0 - FLOAT32.tie / 2
    tied = agree_on_tokens("text", [4, 7, 8], [4, 5, 6], logits, FLOAT32)
    assert tied.passed and "tied" in tied.note
    assert not agree_on_tokens("text", [4, 5], [4, 5, 6], logits, FLOAT32).passed
    assert not agree_on_tokens("text", [], [], logits[:0], FLOAT32).passed  # nothing was compared


def check(layer: int, relative: float, what: str = "attn_z") -> Check:
    return Check("taps", what, layer, Difference(relative, relative), relative < 1e-4)


def test_the_first_failing_layer_is_named_before_a_worse_one_behind_it() -> None:
    checks = [check(0, 1e-6), check(1, 0.2), check(2, 0.9), check(0, 1e-7, "mlp_act"), check(1, 3e-7, "mlp_act")]
    failed, fine = summarise(checks)
    assert (failed.worst.layer, failed.failed_layers, failed.count) == (1, (1, 2), 3)
    assert (fine.worst.layer, fine.failed_layers, fine.count) == (1, (), 2)
    assert failures([failed, fine]) == ["FAILED taps, attn_z.1 (layers 1, 2): relative difference 0.2"]


def test_reports_say_the_same_to_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("m", facts(tiny_model()), FLOAT32, [check(0, 1e-6), check(1, math.inf)], 1.0)
    assert not report.agrees
    document = json.loads(to_json(report))
    assert document["agrees"] is False and document["facts"]["kv_groups"] == 2
    assert document["checks"][1] | {"layer": 1, "passed": False} == document["checks"][1]
    assert document["checks"][1]["difference"] == {"absolute": None, "relative": None}
    print_report(report, Console(width=160))
    printed = capsys.readouterr().out
    assert "FAILED taps, attn_z.1" in printed and "does not agree" in printed and "0.0001" in printed
    assert "tokenizer" in printed and "byte-level BPE" in printed and "resid_post: 0..3" in printed


def test_a_report_without_checks_agrees_with_nothing() -> None:
    assert not Report("m", {}, FLOAT32, [], 1.0).agrees


def test_facts() -> None:
    model = tiny_model("qwen3")
    found = facts(model)
    assert found["kv_bytes_per_token"] == 2 * 4 * 2 * 8 * 4
    assert found["sites"] == {name: [0, 1, 2, 3] for name in ("resid_post", "attn_z", "mlp_act")}
    assert found["parameters"] == sum(p.numel() for p in tiny_hf("qwen3").parameters())
    assert (found["sliding_window"], found["stop_ids"], found["fingerprint"]) == (None, [2], model.fingerprint)
    windowed = tiny_model("qwen3", use_sliding_window=True, sliding_window=16, max_window_layers=2)
    assert facts(windowed)["sliding_window"] == 16


def test_prompts_differ_in_length_and_overrun_a_short_window() -> None:
    model = tiny_model()
    plain, windowed = prompts(model, None), prompts(model, 16)
    assert len({len(prompt.ids) for prompt in plain}) > 1 and {"chat"} < {prompt.name for prompt in plain}
    assert len(windowed[-1].ids) == 32 and windowed[:-1] == plain


def test_edits_are_those_of_an_orthonormal_basis_and_visible_sizes() -> None:
    h = 100 * noise(7, 64)
    made = edits(h, seed=0)
    assert torch.allclose(made["project"].basis @ made["project"].basis.T, torch.eye(4), atol=1e-5)  # type: ignore[union-attr]
    for edit in made.values():
        assert (edit.delta(h).norm(dim=-1) > 0.2 * h.norm(dim=-1)).sum() >= 1


def test_importing_the_doctor_imports_no_package_it_compares_with() -> None:
    program = (
        "import sys, steering.calibration.doctor as d; print(sorted({'nnsight', 'tuned_lens'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"


def test_facts_of_another_kind_of_tokenizer() -> None:
    from steering.model.loading import wrap

    hf = tiny_hf(vocab_size=512)
    assert layout_of(hf).vocab_size == 512
    assert facts(wrap(hf, sentencepiece_tokenizer(), "m"))["tokenizer"] == "SentencePiece, byte fallback"
