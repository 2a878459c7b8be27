"""Placement, as far as it shows without a GPU and without the packages of the extra `quantize`.

Where every tensor of a step must be is checked on fake tensors: two devices that hold no numbers, but refuse to mix,
as real ones do. ("lazy" is a kind of device that any build of PyTorch lets fake tensors be on; CUDA is not.)
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from steering.correction import Correction, WeightCorrection
from steering.edit import Edit, Project, Scale, Set, Shift, SparseWeights
from steering.engine.admission import check_request
from steering.engine.config import EngineConfig
from steering.engine.detector import contrast as contrast_logits
from steering.engine.detector import read_out
from steering.engine.detokenizer import Detokenizer
from steering.engine.engine import Engine
from steering.engine.request import Request, SamplingParams
from steering.engine.scheduler import Batch
from steering.engine.sequence import Sequence
from steering.errors import UnsupportedModel
from steering.lens import LogitLens, TunedLens, full_readout
from steering.model.attention import DecodeRows, SlotKV, Step
from steering.model.checkpoint import named, stored_tensors
from steering.model.fingerprint import fingerprint
from steering.model.hooks import Taps
from steering.model.layout import Layout, layout_of
from steering.model.loading import LanguageModel, load_model
from steering.model.placement import check_offload, place
from steering.model.quantize import check_quantizable, check_quantized, stored_scheme
from steering.model.record import record
from steering.plan import Detector, Plan
from steering.site import Site
from steering.unit import Unit, UnitKind
from tests.models import byte_tokenizer, tiny_hf, tiny_model
from tests.plans import COMPONENTS, contrast, steered

SCHEMES = ("int8", "fp8", "int4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_hf(tie_word_embeddings=True).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


# Refusals: one line, before any weight is read, naming what to install


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("quantize", "placement"):
        monkeypatch.setattr(f"steering.model.{module}.find_spec", lambda name: None)
    monkeypatch.setattr("steering.model.loading.AutoModelForCausalLM", None)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"quantize": "int8"}, "quantize int8 needs torchao and accelerate: pip install"),
        ({"quantize": "fp8"}, "quantize fp8 needs torchao and accelerate: pip install"),
        ({"quantize": "int4"}, "quantize int4 needs bitsandbytes and accelerate: pip install"),
        ({"quantize": "int3"}, "quantize must be int8, fp8, int4; got 'int3'"),
        ({"device_map": "auto"}, "device_map needs accelerate: pip install"),
        ({"device_map": "everywhere"}, "device_map must be one of auto, balanced, balanced_low_0, sequential"),
        ({"device_map": "auto", "device": "cpu"}, "leave device out"),
    ],
)
def test_L13_impossible_placement(
    folder: Path, nothing_installed: None, settings: dict[str, str], expected: str
) -> None:
    with pytest.raises(UnsupportedModel, match=expected) as caught:
        load_model(str(folder), **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantised with gptq, which is not served"),
        ({"quant_method": "awq"}, "quantised with awq, which is not served"),
        ({"quant_method": "fp8"}, "quantised with fp8, which is not served"),
        ({"bits": 4}, "quantised with an unnamed method, which is not served"),
        ({"quant_method": ["gptq"]}, "which is not served"),
        ([], "not an object"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "rows of a batch change each other's results"),
        ({"quant_method": "bitsandbytes"}, "quantised with bitsandbytes, which is not served"),
        ({"quant_method": "torchao", "quant_type": "int8"}, "quantised with torchao, which is not served"),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
            "quantised with torchao Int4WeightOnlyConfig, which is not served",
        ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "needs bitsandbytes and accelerate: pip install"),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}},
            "needs torchao and accelerate: pip install",
        ),
    ],
)
def test_L13_quantised_checkpoints(
    folder: Path, tmp_path: Path, nothing_installed: None, stored: object, expected: str
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text()) | {"quantization_config": stored}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match=expected) as caught:
        load_model(str(copy))
    assert "\n" not in str(caught.value)


def test_an_unquantised_config_has_no_scheme() -> None:
    assert stored_scheme({}) is None and stored_scheme({"quantization_config": None}) is None


def test_L13_experts_cannot_be_quantised_on_load() -> None:
    check_quantizable(tiny_hf().config.to_dict())
    for family in ("mixtral", "qwen3_moe"):
        with pytest.raises(UnsupportedModel, match="mixture of experts"):
            check_quantizable(tiny_hf(family).config.to_dict())


def test_quantised_embeddings_and_broken_numbers_are_refused() -> None:
    check_quantized(tiny_hf())
    hf = tiny_hf()
    hf.lm_head.weight = nn.Parameter(torch.zeros(384, 64, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UnsupportedModel, match="its unembedding is quantised"):
        check_quantized(hf)
    hf = tiny_hf()
    hf.model.layers[1].mlp.down_proj.weight.data[5] = math.nan
    with pytest.raises(UnsupportedModel, match=r"model\.layers\.1\.mlp\.down_proj gives NaN"):
        check_quantized(hf)


@pytest.mark.parametrize(
    ("places", "refused"),
    [
        ({"": "cpu"}, None),
        ({"a": 0, "b": 1}, None),
        ({"a": 0, "b": "cpu"}, "1 of its 2 parts would stay on cpu"),
        ({"a": 0, "b": "cpu", "c": "disk"}, "2 of its 3 parts would stay on cpu and disk"),
        ({"a": "cpu", "b": "disk"}, "1|2 of its 2 parts"),
    ],
)
def test_what_does_not_fit_is_refused(places: dict[str, Any], refused: str | None) -> None:
    hf = SimpleNamespace(hf_device_map=places)
    if refused is None:
        check_offload(hf)
    else:
        with pytest.raises(UnsupportedModel, match=refused):
            check_offload(hf)
    check_offload(SimpleNamespace())


def test_plain_weights_on_one_device_need_no_other_package() -> None:
    assert place("cpu", "auto", None, None).options({}) == {}
    assert place("cpu", "auto", None, None).dtype == torch.float32


# The fingerprint of a model quantised on load is read from its files


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard", ["5GB", "100KB"])
def test_stored_weights_have_the_fingerprint_of_the_loaded(tmp_path: Path, tied: bool, shard: str) -> None:
    hf = tiny_hf("qwen3", tie_word_embeddings=tied)
    hf.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard != "5GB")
    weights = named(stored_tensors(tmp_path), [name for name, _ in hf.named_parameters()])
    assert fingerprint(hf, byte_tokenizer(), weights) == fingerprint(hf, byte_tokenizer())
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    assert fingerprint(hf, byte_tokenizer(), weights) != fingerprint(hf, byte_tokenizer())


def test_weights_that_loading_renames_have_none() -> None:
    with pytest.raises(UnsupportedModel, match=r"a\.weight is not stored under this name"):
        named({"b.weight": torch.zeros(1)}, ["a.weight"])


# Two devices


FIRST, SECOND = torch.device("lazy:0"), torch.device("lazy:1")


def to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return type(value)(to_device(part, device) for part in value) if isinstance(value, tuple) else value


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A fake parameter cannot be swapped in place, as `Module.to` does."""
    there = tensor.detach().to(device)
    return nn.Parameter(there, requires_grad=False) if isinstance(tensor, nn.Parameter) else there


def spread(hf: Any) -> Any:
    """Embedding and blocks 0-1 on the first device, the rest on the second; inputs follow the module, which is what
    accelerate's hooks do (`test_hooks_of_accelerate` runs the real ones)."""

    def follow(device: torch.device) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            return to_device(args, device), {name: to_device(value, device) for name, value in kwargs.items()}

        return hook

    places = {hf.model.embed_tokens: FIRST, hf.model.rotary_emb: FIRST, hf.model.norm: SECOND, hf.lm_head: SECOND}
    places |= {block: FIRST if i < 2 else SECOND for i, block in enumerate(hf.model.layers)}
    for module, device in places.items():
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                tensors |= {name: moved(tensor, device) for name, tensor in tensors.items() if tensor is not None}
        module.register_forward_pre_hook(follow(device), with_kwargs=True)
    return hf


@pytest.fixture
def on_two_devices() -> Iterator[LanguageModel]:
    """A tiny model of fake tensors; a mix of devices in one operation raises."""
    model = tiny_model()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        hf = spread(AutoModelForCausalLM.from_config(model.hf.config).eval())
        yield replace(model, hf=hf, layout=layout_of(hf))


def test_the_fakes_refuse_to_mix(on_two_devices: LanguageModel) -> None:
    first, last = (on_two_devices.layout.mlp_outputs[i] for i in (0, 3))
    assert on_two_devices.layout.devices == (FIRST, FIRST, SECOND, SECOND) and on_two_devices.device == FIRST
    with pytest.raises(RuntimeError, match="same device"):
        first.weight + last.weight


def plans(layout: Layout) -> list[Plan]:
    """Every kind of edit at every site of every block, some read through a lens on either side of the cut. Tensors are
    on the first device, as packs load them."""

    def edits(W: int) -> list[Edit]:
        vector = torch.ones(W, device=FIRST)
        return [Set(vector, vector > 0), Scale(vector), Shift(vector), Project(torch.ones(2, W, device=FIRST))]

    every = [
        Correction(f"{component}.{layer} {i}", Site(component, layer), edit)
        for component in COMPONENTS
        for layer in range(layout.num_layers)
        for i, edit in enumerate(edits(layout.width(component)))
    ]
    tuned = TunedLens(3, torch.ones(64, 64, device=FIRST), torch.ones(64, device=FIRST))
    units = tuple(Unit(kind, layer, 1) for kind in get_args(UnitKind) for layer in range(layout.num_layers))
    deltas = torch.ones(layout.num_deltas(units), 64, device=FIRST)
    above = tuple(correction for correction in every if correction.site.layer == 3)
    return [
        Plan(),
        steered(*every),
        steered(*above, detector=Detector(tuned, 0.5), trace=True),
        steered(*above, contrast(), detector=Detector(LogitLens(1), 0.5)),
        steered(WeightCorrection("weights", SparseWeights(units, deltas))),
    ]


def test_decode_rows_over_two_devices(on_two_devices: LanguageModel) -> None:
    model = on_two_devices
    engine = Engine(model, EngineConfig(max_rows=5, context=64))
    memory, runner = engine._memory, engine._runner
    rows = []
    for slot, plan in enumerate(plans(model.layout)):
        request = Request(str(slot), (5 + slot,), SamplingParams(max_tokens=4), plan)
        check_request(request, model, 64)
        rows.append(Sequence(request, Detokenizer(model.tokenizer, ())))
        assert memory.place(rows[-1]) and rows[-1].slot == slot
    (pool,) = memory.pools
    assert [cache.device for cache in (*pool.kv.keys, *pool.kv.values)] == 2 * list(model.layout.devices)
    forward = runner.forward(Batch(tuple(rows), ()))
    engine.close()
    assert (forward.logits.device, forward.logits.shape) == (FIRST, (5, 384))
    assert {layer: h.device for layer, h in forward.early.items()} == {1: FIRST, 3: FIRST}
    readouts = read_out(tuple(rows), forward, model.layout.unembed)
    assert [(r.rows, r.sides.device, r.drift.device) for r in readouts] == [([2], FIRST, FIRST), ([3], FIRST, FIRST)]
    contrast_logits(forward.logits, readouts[1])


def test_prompts_over_two_devices(on_two_devices: LanguageModel) -> None:
    """Chunks, which a recording is made of; what it keeps comes together on the first device."""
    recording = record(on_two_devices, [[5, 6, 7], [8]], ("attn_z", "mlp_act"))
    kept = [*recording.hidden.values(), *recording.attn_z.values(), *recording.mlp_act.values()]
    assert len(kept) == 5 + 4 + 4 and {tensor.device for tensor in kept} == {FIRST}


def test_a_step_is_copied_once_to_each_other_device(on_two_devices: LanguageModel) -> None:
    layout, positions = on_two_devices.layout, torch.arange(3, device=FIRST)
    kv = SlotKV(slots=3, shape=(8, layout.num_groups, layout.head_dim), dtype=torch.float32, devices=layout.devices)
    step = Step([DecodeRows(kv, 0, positions, positions * 8, 8)], (), Taps({}), FIRST)
    assert step.on(FIRST) is step and step.on(SECOND) is step.on(SECOND)
    (rows,) = step.on(SECOND).rows
    assert rows.writes.device == step.on(SECOND).decode_mask(rows, None, torch.float32).device == SECOND


def test_lenses_read_back_on_the_device_they_were_given(on_two_devices: LanguageModel) -> None:
    """The unembedding is on the second device; lens weights, as those of packs, on the first."""
    unembed = on_two_devices.layout.unembed
    h, ids = torch.ones(3, 64, device=FIRST), torch.zeros(3, 5, dtype=torch.long, device=FIRST)
    for lens in (LogitLens(1), TunedLens(1, torch.ones(64, 64, device=FIRST), torch.ones(64, device=FIRST))):
        assert full_readout(lens, unembed, h).device == FIRST
        found = unembed.candidate_logits(lens.translate(h), ids)
        assert (found.device, tuple(found.shape)) == (FIRST, (3, 5))
    for device in (FIRST, SECOND):  # the head is on the first where it is the embedding, the norm on the last
        assert unembed.normed_logits(h.to(device)).device == device
