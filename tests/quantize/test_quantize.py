"""Quantised models as users run them: the packages of the extra `quantize`, on the CPU (`make test-all`)."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.errors import PackModelMismatch, UnsupportedModel
from steering.gate import Gate
from steering.lens import LogitLens, full_readout
from steering.model.layout import Slice
from steering.model.loading import BUNDLED, LanguageModel, load_model, wrap
from steering.model.quantize import quantization_config
from steering.pack import load_pack, save_pack
from steering.plan import Plan
from steering.site import Site
from tests.models import VOCAB_SIZE, byte_tokenizer, tiny_hf
from tests.oracles.plain_hf import answer
from tests.packs import observing_pack
from tests.plans import BOTH, COMPONENTS, KINDS, correction, steered, tuned

PACKAGES = ("torchao", "bitsandbytes", "accelerate")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # those of the packages are not ours
    pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason="needs the extra quantize"),
]
SCHEMES = ("int8", "fp8", "int4")
TOLERANCE = {"int8": 1e-4, "fp8": 1e-4, "int4": 5e-2}
"""int4's kernels for CPUs with AVX512-BF16 compute in bfloat16, whatever goes in."""
MAX_TOKENS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "plain"
    tiny_hf("qwen3", hidden_size=128, head_dim=16, intermediate_size=256).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return cache(lambda scheme: load_model(str(folder), quantize=scheme))


@cache
def prompts() -> list[tuple[int, ...]]:
    noise = torch.Generator().manual_seed(4)
    return [tuple(torch.randint(6, VOCAB_SIZE, (n,), generator=noise).tolist()) for n in (9, 1, 30, 17, 3, 22)]


def plans(model: LanguageModel) -> list[Plan]:
    """One kind of edit after the other, over sites and blocks, with two rows unsteered."""
    gate = Gate(phases=BOTH)
    parts = [
        correction(kind, model.layout, Site(COMPONENTS[i % 3], i % 4), gate=gate, seed=i)
        for i, kind in enumerate(KINDS)
    ]
    return [Plan(), *(steered(part) for part in parts), Plan()]


def generated(model: LanguageModel, which: list[int], **config: Any) -> list[Completion]:
    engine = Engine(model, EngineConfig(max_rows=4, context=64, prefill_tokens=16, **config))
    every = plans(model)
    sampling = SamplingParams(MAX_TOKENS, temperature=0.0, logprobs=5)
    try:
        return engine.generate([Request(str(i), prompts()[i], sampling, every[i]) for i in which])
    finally:
        engine.close()


def linears(model: LanguageModel) -> list[nn.Module]:
    names = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
    return [block.get_submodule(name) for block in model.layout.blocks for name in names]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_linears_are_quantised_and_embeddings_are_not(folder: Path, loaded: Any, scheme: str) -> None:
    model, plain = loaded(scheme), load_model(str(folder))
    assert (model.quantized, plain.quantized) == (scheme, None)
    assert model.dtype == torch.float32
    assert all(type(linear.weight) is not nn.Parameter for linear in linears(model))
    assert torch.equal(model.hf.lm_head.weight, plain.hf.lm_head.weight)
    assert torch.equal(model.hf.model.embed_tokens.weight, plain.hf.model.embed_tokens.weight)
    ids = torch.tensor([prompts()[0]])
    expected, found = plain.hf(ids).logits, model.hf(ids).logits
    assert 1e-3 < ((found - expected).norm() / expected.norm()).item() < 0.4


@pytest.mark.parametrize("scheme", SCHEMES)
def test_T5_fingerprint_is_that_of_the_checkpoint(folder: Path, loaded: Any, scheme: str, tmp_path: Path) -> None:
    """So a pack made for the checkpoint loads, and one made for another does not."""
    plain = load_model(str(folder))
    assert loaded(scheme).fingerprint == plain.fingerprint
    pack = save_pack(observing_pack(plain, name="seen"), tmp_path / "seen")
    assert load_pack(tmp_path / "seen", loaded(scheme)).digest == pack.digest
    other = wrap(tiny_hf("qwen3", seed=1, hidden_size=128, head_dim=16, intermediate_size=256), byte_tokenizer(), "o")
    save_pack(observing_pack(other, name="other"), tmp_path / "other")
    with pytest.raises(PackModelMismatch):
        load_pack(tmp_path / "other", loaded(scheme))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_steered_and_unsteered_rows_equal_the_oracle(loaded: Any, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle runs the same quantised weights, one sequence at a time, under stock hooks."""
    model, tolerance = loaded(scheme), TOLERANCE[scheme]
    done = generated(model, list(range(len(prompts()))))
    monkeypatch.setattr(model.hf.config, "_attn_implementation", "eager")
    apart, changed = 0, 0
    for i, (prompt, plan, completion) in enumerate(zip(prompts(), plans(model), done, strict=True)):
        expected = answer(model.hf, prompt, plan, max_tokens=MAX_TOKENS)
        unsteered = answer(model.hf, prompt, Plan(), max_tokens=1)[0].logprobs
        changed += plan.acts and (expected[0].logprobs - unsteered).abs().max().item() > 0.1
        for token, position in zip(completion.tokens, expected, strict=False):
            if token.id != position.token_id:  # a tie: from here on these are two texts
                gap = position.logprobs[position.token_id] - position.logprobs[token.id]
                assert gap.item() < 4 * tolerance, i
                apart += 1
                break
            for token_id, logprob in token.top_logprobs:
                assert logprob == pytest.approx(position.logprobs[token_id].item(), abs=4 * tolerance), i
    assert changed == len(KINDS)
    assert apart <= (2 if scheme == "int4" else 0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_keep_apart_bit_for_bit_in_deterministic_mode(loaded: Any, scheme: str) -> None:
    """What neighbours do changes nothing: LLM.int8() fails here, and is refused for it."""
    model = loaded(scheme)
    together = generated(model, list(range(len(prompts()))), deterministic=True)
    for i in range(len(prompts())):
        (alone,) = generated(model, [i], deterministic=True)
        assert alone.tokens == together[i].tokens


@pytest.mark.parametrize("scheme", SCHEMES)
def test_candidates_are_the_full_read_out_restricted(loaded: Any, scheme: str) -> None:
    unembed = loaded(scheme).layout.unembed
    h = torch.randn(7, 128, generator=torch.Generator().manual_seed(0))
    ids = torch.stack([torch.randperm(VOCAB_SIZE)[:64] for _ in range(7)])
    expected = full_readout(LogitLens(2), unembed, h).gather(-1, ids)
    torch.testing.assert_close(unembed.candidate_logits(h, ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_checkpoint_stored_quantised(folder: Path, loaded: Any, scheme: str, tmp_path: Path) -> None:
    """It is served as it is, under a fingerprint of its own, and is not quantised again."""
    made, stored = loaded(scheme), load_model(str(store(folder, tmp_path / scheme, scheme)))
    assert stored.quantized == scheme
    assert torch.equal(stored.hf(torch.tensor([prompts()[0]])).logits, made.hf(torch.tensor([prompts()[0]])).logits)
    assert stored.fingerprint == load_model(str(tmp_path / scheme)).fingerprint
    others = [load_model(str(store(folder, tmp_path / s, s))) for s in SCHEMES if s != scheme]
    assert len({stored.fingerprint, made.fingerprint, *(other.fingerprint for other in others)}) == 4
    for one, other in zip(generated(stored, [0, 2]), generated(made, [0, 2]), strict=True):
        assert [token.id for token in one.tokens] == [token.id for token in other.tokens]
        for token, same in zip(one.tokens, other.tokens, strict=True):
            assert token.logprob == pytest.approx(same.logprob, abs=TOLERANCE[scheme])
    with pytest.raises(UnsupportedModel, match=rf"quantised already \({scheme}\)"):
        load_model(str(tmp_path / scheme), quantize=scheme)


def store(folder: Path, path: Path, scheme: str) -> Path:
    """As transformers saves it. Before its first forward: bitsandbytes packs int4 for the CPU in it, for good."""
    config = quantization_config(scheme, torch.float32)
    hf = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32, device_map="cpu")
    hf.save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


def test_L13_shapes_that_a_kernel_does_not_take(tmp_path: Path) -> None:
    """Found when loading, not by the first request: int4 on this kind of CPU wants rows in blocks of 32."""
    tiny_hf("qwen3").save_pretrained(tmp_path)  # its keys and values are 16 wide
    byte_tokenizer().save_pretrained(tmp_path)
    try:
        model = load_model(str(tmp_path), quantize="int4")
    except UnsupportedModel as error:
        assert "divisible" in str(error) and "\n" not in str(error)
    else:  # other CPUs go another way, which takes them
        assert model.hf(torch.tensor([prompts()[0]])).logits.isfinite().all()


def test_L13_llm_int8_is_refused_because_rows_meet_in_it(folder: Path, tmp_path: Path) -> None:
    config = BitsAndBytesConfig(load_in_8bit=True)
    hf = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu").eval()
    ids = torch.tensor([prompts()[2]])
    with torch.no_grad():
        together, alone = hf(ids).logits[:, :1], hf(ids[:, :1]).logits
    assert (together - alone).abs().max().item() > 1e-3  # position 0 sees nothing of the others, but changes with them
    hf.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="rows of a batch change each other"):
        load_model(str(tmp_path))


def test_L13_fp8_of_rows_of_zeros_is_refused() -> None:
    """The bundled model has query rows that are exactly zero."""
    with pytest.raises(UnsupportedModel, match="fp8 does that to rows of zeros"):
        load_model(BUNDLED, quantize="fp8")


def test_commands_stay_silent_about_kernels() -> None:
    command = [sys.executable, "-m", "steering", "doctor", "/no/such"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("scheme", SCHEMES)
def test_changed_weights_beside_quantised_ones(loaded: Any, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deltas stay as they are and are added to what the quantised linear puts out: here by the test's own hooks, on all
    positions of one sequence."""
    model, part = loaded(scheme), tuned(loaded(scheme).layout)
    engine = Engine(model, EngineConfig(max_rows=4, context=64, prefill_tokens=16))
    sampling = SamplingParams(MAX_TOKENS, temperature=0.0, logprobs=5)
    requests = [Request("on", prompts()[2], sampling, steered(part)), Request("off", prompts()[2], sampling)]
    on, off = engine.generate(requests)
    engine.close()
    monkeypatch.setattr(model.hf.config, "_attn_implementation", "eager")
    plain = answer(model.hf, prompts()[2], Plan(), max_tokens=1)[0].logprobs
    handles, deltas = [], list(part.edit.deltas)
    for unit in part.edit.units:
        for piece in model.layout.slices(unit):
            rows = torch.stack([deltas.pop(0) for _ in range(piece.length)])
            handles.append(piece.linear.register_forward_hook(_adding(piece, rows)))
    changed = answer(model.hf, prompts()[2], Plan(), max_tokens=1)[0].logprobs
    for handle in handles:
        handle.remove()
    for done, expected in ((on, changed), (off, plain)):
        for token_id, logprob in done.tokens[0].top_logprobs:
            assert logprob == pytest.approx(expected[token_id].item(), abs=TOLERANCE[scheme])
    assert (changed - plain).abs().max() > 0.1


def _adding(piece: Slice, rows: torch.Tensor) -> Any:
    own = slice(piece.first, piece.first + piece.length)

    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        if piece.dim == 1:
            return output + args[0][..., own] @ rows
        added = torch.zeros_like(output)
        added[..., own] = args[0] @ rows.T
        return output + added

    return hook


# Device maps


def test_auto_on_a_machine_without_gpus_is_the_cpu(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    model, plain = load_model(str(folder), device_map="auto"), load_model(str(folder))
    assert {device.type for device in model.layout.devices} == {"cpu"}
    assert [c.tokens for c in generated(model, [0, 2])] == [c.tokens for c in generated(plain, [0, 2])]


def test_hooks_of_accelerate_and_ours_work_on_one_module(folder: Path) -> None:
    """The real hooks that a device map puts on every module, though both devices are the CPU here."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model, plain = load_model(str(folder)), load_model(str(folder))
    base = model.hf.model
    for module in (base.embed_tokens, base.rotary_emb, *base.layers, base.norm, model.hf.lm_head):
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=False))
    which = list(range(len(prompts())))
    assert [c.tokens for c in generated(model, which)] == [c.tokens for c in generated(plain, which)]


def test_L13_what_would_be_offloaded_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the blocks on the disk, as accelerate does it where memory runs out."""
    import steering.model.loading

    real = steering.model.loading.AutoModelForCausalLM

    class Squeezed:
        @staticmethod
        def from_pretrained(*arguments: Any, device_map: Any, **options: Any) -> Any:
            places = {f"model.layers.{i}": "cpu" if i < 2 else "disk" for i in range(4)}
            places |= dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
            return real.from_pretrained(*arguments, device_map=places, **options)

    monkeypatch.setattr(steering.model.loading, "AutoModelForCausalLM", Squeezed)
    with pytest.raises(UnsupportedModel, match="8 of its 8 parts would stay on cpu and disk"):
        load_model(str(folder), device_map="auto")
