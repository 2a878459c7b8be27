"""The doctor beside nnsight and tuned-lens: it agrees on sound models, and names what is broken in others.

In a process of its own (`make test-all`): importing nnsight changes the interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from steering.calibration.doctor.agreement import Check, summarise
from steering.calibration.doctor.examine import examine
from steering.calibration.doctor.report import failures
from steering.model.layout import LinearUnembed
from steering.model.loading import LanguageModel, load_model
from tests.models import FAMILY_FIELDS, byte_tokenizer, tiny_hf, tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # those of the packages compared with are not ours
    pytest.mark.skipif(not (find_spec("nnsight") and find_spec("tuned_lens")), reason="needs the extra calibrate"),
]
L = 4
SECTIONS = {"taps", "lens", "edits", "generation"}


@pytest.mark.parametrize("family", FAMILY_FIELDS)
def test_every_family_agrees(family: str) -> None:
    model = tiny_model(family)
    report = examine(model)
    assert report.agrees, failures(summarise(report.checks))
    assert max(check.difference.relative for check in report.checks if check.difference) < 1e-5
    with_mlp = sum(mlp is not None for mlp in model.layout.mlp_outputs)
    assert sum(check.what == "mlp_act" for check in report.checks) == with_mlp
    assert bool(with_mlp) == any(check.what == "project mlp_act" for check in report.checks)
    window = "longer than the window" in {check.what for check in report.checks}
    assert window == (family in {"gemma2", "gemma3_text", "mistral"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 8, "tie_word_embeddings": True}),
        ("qwen3", {}),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}),
    ],
    ids=["llama", "no GQA, tied", "qwen3", "sliding window"],
)
def test_sound_models_agree(family: str, config: dict[str, object], dtype: torch.dtype) -> None:
    model = tiny_model(family, **config)
    report = examine(replace(model, hf=model.hf.to(dtype)))
    assert report.agrees, failures(summarise(report.checks))
    assert {check.section for check in report.checks} == SECTIONS
    assert sum(check.section == "taps" for check in report.checks) == 1 + 3 * L
    assert sum(check.section == "lens" for check in report.checks) == (L + 1) + 2 * L
    assert sum(check.section == "edits" for check in report.checks) == 1 + 3 * 4 * 3
    windowed = "sliding_window" in config
    assert windowed == any(check.what == "longer than the window" for check in report.checks)
    assert (
        all(check.note == "24 tokens" for check in report.checks if check.section == "generation")
        or dtype != torch.float32
    )


def test_the_model_is_left_as_it_was() -> None:
    model, ids = tiny_model(), torch.tensor([[1, 30, 31, 32]])
    before, attention = model.hf(ids).logits, model.hf.config._attn_implementation
    examine(model)
    assert torch.equal(model.hf(ids).logits, before)
    assert model.hf.config._attn_implementation == attention


# What a family that is new to us could get wrong. Each is built, not patched into a result.


def next_block(model: LanguageModel) -> LanguageModel:
    """Off by one: the tap of block i sits on block i+1."""
    blocks = [*model.layout.blocks[1:], model.layout.blocks[-1]]
    return replace(model, layout=replace(model.layout, blocks=blocks))


def swapped_mlps(model: LanguageModel) -> LanguageModel:
    mlps = list(model.layout.mlp_outputs)
    mlps[1], mlps[2] = mlps[2], mlps[1]
    return replace(model, layout=replace(model.layout, mlp_outputs=mlps))


def swapped_attention(model: LanguageModel) -> LanguageModel:
    """The attention of blocks 2 and 3 reports as each other's."""
    second, third = (model.layout.blocks[i].self_attn for i in (2, 3))
    second.layer_idx, third.layer_idx = 3, 2
    return model


class Scaled(torch.nn.Module):
    """A stand-in for down_proj that tells its hooks 1 % more than what goes in."""

    def __init__(self, linear: torch.nn.Module) -> None:
        super().__init__()
        self.linear, self.hook = linear, None

    def register_forward_pre_hook(self, hook: Callable[..., object]) -> object:  # type: ignore[override]
        return self.linear.register_forward_pre_hook(lambda module, args: hook(module, (1.01 * args[0],)))


def scaled_tap(model: LanguageModel) -> LanguageModel:
    mlps = [Scaled(mlp) if layer == 3 else mlp for layer, mlp in enumerate(model.layout.mlp_outputs)]
    return replace(model, layout=replace(model.layout, mlp_outputs=mlps))


def wrong_norm(model: LanguageModel) -> LanguageModel:
    """The lens reads through another norm, with another weight, than the model's last."""
    norm = model.layout.blocks[-1].input_layernorm
    norm.weight.data.mul_(torch.linspace(0.5, 1.5, model.layout.d_model))
    return replace(model, layout=replace(model.layout, unembed=LinearUnembed(norm, model.hf.lm_head)))


BROKEN: list[tuple[Callable[[LanguageModel], LanguageModel], set[tuple[str, str, int | None]], set[str]]] = [
    # (fault, (section, what, first failing layer) that must be named, sections that must still agree)
    (
        next_block,
        {("taps", "resid_post", 0), ("edits", "shift resid_post", 0)},
        {"lens", "generation"},
    ),
    (swapped_mlps, {("taps", "mlp_act", 1), ("edits", "set mlp_act", 1)}, {"lens", "generation"}),
    (swapped_attention, {("taps", "attn_z", 2), ("edits", "shift attn_z", 3)}, {"lens", "generation"}),
    (scaled_tap, {("taps", "mlp_act", 3)}, set()),
    (wrong_norm, {("lens", "logit lens", 0), ("lens", "candidates", 0)}, {"taps", "edits", "generation"}),
]


@pytest.mark.parametrize(("fault", "named", "sound"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_tap_is_found_and_named(
    fault: Callable[[LanguageModel], LanguageModel], named: set[tuple[str, str, int | None]], sound: set[str]
) -> None:
    report = examine(fault(tiny_model()))
    assert not report.agrees
    first = {(s.section, s.what, s.worst.layer) for s in summarise(report.checks) if not s.worst.passed}
    assert named <= first, first
    assert sound.isdisjoint(section for section, _, _ in first), first
    lines = failures(summarise(report.checks))
    for section, what, layer in named:
        assert any(line.startswith(f"FAILED {section}, {what}.{layer}") for line in lines), lines


def test_only_the_broken_layers_of_a_tap_fail() -> None:
    report = examine(swapped_mlps(tiny_model()))
    assert failed_layers(report.checks, "taps", "mlp_act") == [1, 2]
    assert failed_layers(report.checks, "taps", "attn_z") == failed_layers(report.checks, "taps", "resid_post") == []


def failed_layers(checks: object, section: str, what: str) -> list[int | None]:
    assert isinstance(checks, list)
    every: Iterator[Check] = iter(checks)
    return [c.layer for c in every if (c.section, c.what) == (section, what) and not c.passed]


def test_what_our_side_raises_is_a_finding() -> None:
    model = tiny_model()
    report = examine(replace(model, layout=replace(model.layout, num_groups=3)))
    assert not report.agrees
    assert {check.section for check in report.checks if check.what == "our side"} >= {"taps", "edits", "generation"}


@pytest.mark.parametrize("scheme", ["int8", "fp8", "int4"])
def test_quantised_models_agree(tmp_path: Path, scheme: str) -> None:
    if not (find_spec("torchao") and find_spec("bitsandbytes") and find_spec("accelerate")):
        pytest.skip("needs the extra quantize")
    hf = tiny_hf("qwen3", hidden_size=128, head_dim=16, intermediate_size=256)
    hf.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    report = examine(load_model(str(tmp_path), quantize=scheme))
    assert report.agrees, failures(summarise(report.checks))
    assert report.facts["quantized"] == scheme and report.facts["parameters"] == hf.num_parameters()


# As a command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_hf("qwen3").save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "steering", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_command_agrees(folder: Path) -> None:
    done = doctor(str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny agrees with nnsight and tuned-lens" in done.stdout and done.stderr == ""
    assert "project mlp_act" in done.stdout and "FAILED" not in done.stdout


def test_command_writes_json_alone(folder: Path) -> None:
    done = doctor(str(folder), "--json", "--dtype", "bfloat16")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and document["agrees"] is True
    assert document["facts"]["family"] == "qwen3" and document["facts"]["dtype"] == "bfloat16"
    assert document["tolerance"] == {"relative": 0.1, "share": 0.5, "tie": 0.25}
    assert max(c["difference"]["relative"] for c in document["checks"] if c["difference"]) > 1e-4


@pytest.mark.parametrize("arguments", [["/no/such/folder"], ["unsway-organism", "--dtype", "int3"]])
def test_command_that_cannot_run_is_one_line(arguments: list[str]) -> None:
    done = doctor(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("unsway: ")
