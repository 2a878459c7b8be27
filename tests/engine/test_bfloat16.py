"""bfloat16: what is promised there, and what cannot be.

A bfloat16 number has 8 significant bits: kernels that add up in another order (a packed step, or one sequence alone)
give logits that differ in the last of them, and where two tokens stand closer than that, either may win. After that the
texts differ. Hence: an answer is `generate`'s up to its first near tie, and steered log-probabilities are those of the
float32 oracle up to rounding. The tolerances are for these models, whose logits reach 2 to 4, where bfloat16 has steps
of 1/64.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.errors import InvalidRequest
from steering.gate import Gate
from steering.model.layout import Layout, layout_of
from steering.model.loading import LanguageModel, wrap
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import ids, kv_tensors
from tests.engine.test_equals_generate import generate, prompts
from tests.models import byte_tokenizer, tiny_hf
from tests.oracles.plain_hf import Position, answer
from tests.plans import BOTH, COMPONENTS, DRIFT, KINDS, contrast, correction, steered, tuned_lens

FAMILIES = ("llama", "gemma2")
MAX_TOKENS = 20
TIE = 0.05
"""Logits closer than this are a near tie: about three steps of bfloat16."""
TOLERANCE = 0.1
"""nats, of a steered log-probability; half of the cases stay below a third of it."""
T = TypeVar("T")


@cache
def half(family: str) -> LanguageModel:
    model = wrap(tiny_hf(family).to(torch.bfloat16), byte_tokenizer(), family)
    return replace(model, stop_ids=frozenset())


@cache
def single(family: str) -> PreTrainedModel:
    """The same weights, computed in float32."""
    hf = tiny_hf(family).to(torch.bfloat16).float()
    hf.set_attn_implementation("eager")
    return hf


@torch.no_grad()
def logits(hf: PreTrainedModel, text: tuple[int, ...]) -> Tensor:
    return hf(torch.tensor([text]), use_cache=False).logits[0].float()


@cache
def generated(family: str) -> list[list[int]]:
    plain = tiny_hf(family).to(torch.bfloat16)
    plain.generation_config.eos_token_id = None
    return [generate(plain, prompt, MAX_TOKENS) for prompt in prompts()]


def serve(family: str, requests: list[Request], *, deterministic: bool = False) -> list[Completion]:
    engine = Engine(half(family), EngineConfig(max_rows=5, context=192, prefill_tokens=32, deterministic=deterministic))
    done = engine.generate(requests)
    engine.close()
    return done


@pytest.mark.parametrize("deterministic", [False, True], ids=["default", "deterministic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_generates_up_to_near_ties(family: str, deterministic: bool) -> None:
    greedy = SamplingParams(MAX_TOKENS, temperature=0)
    done = serve(family, [Request(str(i), p, greedy) for i, p in enumerate(prompts())], deterministic=deterministic)
    equal = 0
    for prompt, completion, theirs in zip(prompts(), done, generated(family), strict=True):
        ours = ids(completion)
        parting = next((i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]), MAX_TOKENS)
        equal += parting
        if parting < MAX_TOKENS:
            at = logits(single(family), (*prompt, *ours[:parting]))[-1]
            assert (at[ours[parting]] - at[theirs[parting]]).abs() < TIE
    assert equal > 0.5 * MAX_TOKENS * len(prompts())
    gaps = torch.cat([logits(single(family), p).topk(2).values.diff().abs() for p in prompts()])
    assert (gaps > TIE).float().mean() > 0.6, "if all were near ties, nothing would be promised"


def converted(part: T, dtype: torch.dtype) -> T:
    """An edit or a lens with its numbers in another dtype."""
    values = {field.name: getattr(part, field.name) for field in fields(part)}  # type: ignore[arg-type]
    changed = {k: v.to(dtype) for k, v in values.items() if isinstance(v, Tensor) and v.is_floating_point()}
    return replace(part, **changed)  # type: ignore[type-var]


def in_dtype(plan: Plan, dtype: torch.dtype) -> Plan:
    corrections = tuple(replace(c, edit=converted(c.edit, dtype)) for c in plan.corrections)
    detector = plan.detector and replace(plan.detector, lens=converted(plan.detector.lens, dtype))
    return replace(plan, corrections=corrections, detector=detector)


def plans(layout: Layout) -> dict[str, Plan]:
    made = {"off": Plan()}
    watch = Detector(tuned_lens(layout, 1), 0.0, 32)
    for i, kind in enumerate(KINDS):
        for component in COMPONENTS:
            part = correction(kind, layout, Site(component, 1 + i % 3), gate=Gate(phases=BOTH), strength=0.7, seed=i)
            made[part.name] = steered(part)
        gated = correction(kind, layout, Site(COMPONENTS[i % 3], 2), gate=DRIFT, strength=0.7, seed=i)
        made[f"{gated.name} gated"] = steered(gated, detector=watch)  # a threshold of 0: every position retries
    made["contrast"] = steered(contrast(0.01), detector=watch, trace=True)
    return {name: in_dtype(plan, torch.bfloat16) for name, plan in made.items()}


def error(completion: Completion, position: Position) -> float:
    """Of the most probable tokens' log-probabilities, in nats."""
    return max(abs(logprob - position.logprobs[i].item()) for i, logprob in completion.tokens[0].top_logprobs)


@pytest.mark.parametrize("family", FAMILIES)
def test_steered_equals_the_float32_oracle_up_to_rounding(family: str) -> None:
    """At the first sampled position, where no earlier near tie has taken another way."""
    one, made = SamplingParams(1, temperature=0, logprobs=5), plans(layout_of(single(family)))
    cases = [(name, plan, prompt) for i, (name, plan) in enumerate(made.items()) for prompt in prompts()[i % 3 :: 3]]
    done = serve(family, [Request(str(i), p, one, plan) for i, (_, plan, p) in enumerate(cases)])
    errors, effects = [], []
    for (_, plan, prompt), completion in zip(cases, done, strict=True):
        oracle = answer(single(family), prompt, in_dtype(plan, torch.float32), max_tokens=1)[0]
        off = answer(single(family), prompt, Plan(), max_tokens=1)[0]
        errors.append(error(completion, oracle))
        effects.append((oracle.logprobs - off.logprobs).abs().max().item())
        assert completion.tokens[0].steered == oracle.steered
        if completion.tokens[0].reading:
            assert completion.tokens[0].reading.drift == pytest.approx(oracle.drift, abs=0.05)
    assert max(errors) < TOLERANCE
    assert sorted(errors)[len(errors) // 2] < TOLERANCE / 3
    acting = sorted(effect for effect, (name, _, _) in zip(effects, cases, strict=True) if name != "off")
    assert acting[len(acting) // 4] > 2 * TOLERANCE, "effects must stand out"


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_widened_on_the_way(family: str) -> None:
    """Keys and values at half the bytes, and every linear layer fed bfloat16, steered or not."""
    model, seen = half(family), set[torch.dtype]()

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.update({args[0].dtype, output.dtype})

    handles = [m.register_forward_hook(note) for m in model.hf.modules() if isinstance(m, nn.Linear)]
    layout = model.layout
    plan = plans(layout)["set-attn_z.1"]
    both = replace(plan, detector=Detector(converted(tuned_lens(layout, 1), torch.bfloat16), 0.5))
    engine = Engine(model, EngineConfig(max_rows=2, context=64))
    engine.generate([Request(str(i), prompts()[i], SamplingParams(3), p) for i, p in ((0, both), (9, Plan()))])
    assert {cache.dtype for cache in kv_tensors(engine)} == {torch.bfloat16}
    assert engine.kv.budget == 2 * 4 * 2 * 64 * layout.num_groups * layout.head_dim * 2  # K and V, layers, rows, T
    assert seen == {torch.bfloat16}
    engine.close()
    for handle in handles:
        handle.remove()


def test_tensors_of_another_width_are_refused() -> None:
    """So that no plan made for float32 can widen a bfloat16 model."""
    plan = Plan(mode="observe", detector=Detector(tuned_lens(half("llama").layout, 1), 0.5))
    engine = Engine(half("llama"), EngineConfig(max_rows=2, context=64))
    with pytest.raises(InvalidRequest, match="bfloat16"):
        engine.add(Request("a", (1, 2), SamplingParams(1), plan))
    engine.close()
