"""Rows that carry changed weights equal a stock model whose weights really are W + c dW, the others the plain one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from steering.correction import WeightCorrection
from steering.edit import Scale, Set, Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.errors import InvalidRequest, LayerOutOfRange
from steering.gate import Gate
from steering.model.layout import layout_of
from steering.model.loading import LanguageModel
from steering.model.weights import Patch
from steering.plan import Detector, Plan
from steering.site import Site
from steering.unit import Unit
from tests.engine.spy import ids, run_staggered
from tests.models import FAMILY_FIELDS, VOCAB_SIZE, endless_model, tiny_hf, tiny_model
from tests.oracles.patched_hf import patched
from tests.oracles.plain_hf import Position, answer
from tests.plans import (
    BOTH,
    DRIFT,
    contrast,
    correction,
    separating_threshold,
    sparse_weights,
    steered,
    tuned,
    tuned_lens,
    with_threshold,
)

TOLERANCE = 1e-4
MAX_TOKENS = 6
SAMPLING = SamplingParams(MAX_TOKENS, temperature=0, logprobs=3, prompt_logprobs=0)
MODES = [pytest.param(False, id="default"), pytest.param(True, id="deterministic")]


@cache
def plain_hf(family: str) -> PreTrainedModel:
    hf = tiny_hf(family)
    hf.set_attn_implementation("eager")
    return hf


@cache
def model(family: str = "llama") -> LanguageModel:
    return endless_model(family)


@cache
def prompts() -> list[tuple[int, ...]]:
    noise = torch.Generator().manual_seed(5)
    return [tuple(torch.randint(6, VOCAB_SIZE, (n,), generator=noise).tolist()) for n in (9, 30, 2, 41)]


@cache
def plans(family: str) -> dict[str, Plan]:
    """Two changes that share a block, in whole and in part, alone, together, and in answers beside each other."""
    layout = layout_of(plain_hf(family))
    one, two = tuned(layout), tuned(layout, layers=(2, 3), strength=0.8, seed=1)
    return {
        "one": steered(one),
        "half of one": steered(one, strength=0.5),
        "two": steered(two),
        "both": steered(one, two),
        **{f"off {i}": Plan() for i in range(4)},
    }


def cases(family: str) -> list[tuple[str, Plan, tuple[int, ...]]]:
    return [(name, plan, prompts()[i % 4]) for i, (name, plan) in enumerate(plans(family).items())]


def changed(family: str, plan: Plan) -> PreTrainedModel:
    changes = [(plan.strength * c.strength, c.edit) for c in plan.weight_corrections]
    return patched(plain_hf(family), *changes) if changes else plain_hf(family)


@cache
def expected(family: str) -> dict[str, list[Position]]:
    return {
        name: answer(changed(family, plan), prompt, Plan(), max_tokens=MAX_TOKENS)
        for name, plan, prompt in cases(family)
    }


def serve(served: LanguageModel, requests: list[Request], *, deterministic: bool) -> dict[str, Completion]:
    """Eight rows; prompts in chunks of 16; answers that begin and end at different times."""
    config = EngineConfig(max_rows=8, context=64, prefill_tokens=16, deterministic=deterministic)
    engine = Engine(served, config)
    done = run_staggered(engine, requests, every=1)
    engine.close()
    return done


def check(name: str, completion: Completion, positions: list[Position]) -> None:
    assert ids(completion) == [p.token_id for p in positions], name
    for token, position in zip(completion.tokens, positions, strict=True):
        for token_id, logprob in ((token.id, token.logprob), *token.top_logprobs):
            assert logprob == pytest.approx(position.logprobs[token_id].item(), abs=TOLERANCE), name


@torch.no_grad()
def prompt_logprobs(hf: PreTrainedModel, prompt: tuple[int, ...]) -> Tensor:
    logprobs = hf(torch.tensor([prompt]), use_cache=False).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(prompt[1:])[:, None])[:, 0]


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("family", FAMILY_FIELDS)
def test_a_mixed_batch_equals_models_that_are_really_changed(family: str, deterministic: bool) -> None:
    requests = [Request(name, prompt, SAMPLING, plan) for name, plan, prompt in cases(family)]
    done = serve(model(family), requests, deterministic=deterministic)
    for name, plan, prompt in cases(family):
        check(name, done[name], expected(family)[name])
        scored = [token.logprob for token in done[name].prompt[1:]]
        assert scored == pytest.approx(prompt_logprobs(changed(family, plan), prompt).tolist(), abs=TOLERANCE), name
        receipt = done[name].finish.receipt
        assert (receipt.applied, receipt.steered_tokens) == ((True, MAX_TOKENS) if plan.acts else (False, 0)), name


@pytest.mark.parametrize("family", FAMILY_FIELDS)
def test_every_change_changes_its_answer(family: str) -> None:
    """Without this, equality with the changed models would prove nothing."""
    for i, name in enumerate(("one", "half of one", "two", "both")):
        pairs = zip(expected(family)[name], expected(family)[f"off {i}"], strict=True)
        assert max((p.logprobs - q.logprobs).abs().max().item() for p, q in pairs) > 0.1, name
    kinds = {unit.kind for unit in plans(family)["both"].weight_corrections[0].edit.units}
    assert kinds == ({"group"} if family == "mixtral" else {"group", "neuron"})


def bits(completion: Completion) -> object:
    return completion.prompt, [(t.id, t.logprob, t.top_logprobs) for t in completion.tokens]


def eight(plan: Plan) -> list[Request]:
    """Every second row under the plan."""
    return [Request(str(i), prompts()[i % 4], SAMPLING, plan if i % 2 else Plan()) for i in range(8)]


@pytest.mark.parametrize("family", FAMILY_FIELDS)
def test_C3_four_of_eight_rows_carry_it_and_four_keep_every_bit(family: str) -> None:
    plan = plans(family)["both"]
    base = serve(model(family), eight(Plan()), deterministic=True)
    mixed = serve(model(family), eight(plan), deterministic=True)
    alone = serve(model(family), eight(plan)[1:2], deterministic=True)
    for i in (0, 2, 4, 6):
        assert bits(mixed[str(i)]) == bits(base[str(i)])
    assert bits(mixed["1"]) == bits(alone["1"]) != bits(base["1"])
    own = replace(model(family), hf=(hf := changed(family, plan)), layout=layout_of(hf))
    for i, completion in serve(own, eight(Plan()), deterministic=True).items():
        if int(i) % 2:
            assert ids(mixed[i]) == ids(completion)
            assert [t.logprob for t in mixed[i].tokens] == pytest.approx(
                [t.logprob for t in completion.tokens], abs=TOLERANCE
            )


def test_beside_corrections_of_every_other_kind() -> None:
    """They meet at one block: o and down multiply what `attn_z` and `mlp_act` corrections left."""
    layout, weights = model().layout, tuned(model().layout, layers=(2,))
    parts = (
        correction(Set, layout, Site("attn_z", 2), gate=DRIFT),
        correction(Scale, layout, Site("mlp_act", 2), gate=Gate(phases=BOTH)),
        correction(Shift, layout, Site("resid_post", 2), strength=0.5),
        contrast(0.01, gate=DRIFT, a=0.7),
    )
    detector = Detector(tuned_lens(layout, 1), 0.5)
    rest, hf = steered(*parts, detector=detector), changed("llama", steered(weights))
    watched = [p.drift for prompt in prompts() for p in answer(hf, prompt, replace(rest, mode="observe"), max_tokens=6)]
    rest = with_threshold(rest, separating_threshold([drift for drift in watched if drift is not None]))
    plan = replace(rest, weight_corrections=(weights,))
    for deterministic in (False, True):
        requests = [Request(str(i), prompt, SAMPLING, plan) for i, prompt in enumerate(prompts())]
        done = serve(model(), [*requests, Request("off", prompts()[0], SAMPLING)], deterministic=deterministic)
        fired = 0
        for i, prompt in enumerate(prompts()):
            positions = answer(hf, prompt, rest, max_tokens=MAX_TOKENS)
            check(str(i), done[str(i)], positions)
            fired += sum(p.fired for p in positions)
        assert 0 < fired < 4 * MAX_TOKENS
        check("off", done["off"], answer(plain_hf("llama"), prompts()[0], Plan(), max_tokens=MAX_TOKENS))


@pytest.mark.parametrize("deterministic", MODES)
def test_only_rows_that_carry_it_are_computed(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In deterministic mode all are, since matrix products of other shapes have other bits."""
    computed: list[int] = []
    added = Patch.added
    monkeypatch.setattr(Patch, "added", lambda self, x: (computed.append(len(x)), added(self, x))[1])
    engine = Engine(model(), EngineConfig(max_rows=8, context=64, deterministic=deterministic))
    one = SamplingParams(3, temperature=0)
    plan = steered(tuned(model().layout))
    engine.generate([Request(str(i), (7 + i,), one, plan if i < 3 else Plan()) for i in range(8)])
    assert set(computed) == {8 if deterministic else 3}
    computed.clear()
    engine.generate([Request(str(i), (7 + i,), one) for i in range(8)])
    assert computed == [] and not any(linear._forward_hooks for linear in model().hf.modules() if _is_linear(linear))
    engine.close()


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)


@pytest.mark.parametrize(("plan", "prompts_computed"), [("one", 2), ("off 0", 1)])
def test_a_prompt_is_never_shared_with_the_plain_answer(plan: str, prompts_computed: int) -> None:
    engine = Engine(model(), EngineConfig(max_rows=4, context=64))
    compared = engine.generate([Request("a", prompts()[1], SAMPLING, plans("llama")[plan], compare=True)])
    assert engine.prompt_tokens_computed == prompts_computed * (len(prompts()[1]) - 1)
    assert (bits(compared[0]) != bits(compared[1])) == (prompts_computed == 2)
    several = engine.generate([Request("b", prompts()[1], SAMPLING, plans("llama")["one"], n=3)])
    assert engine.prompt_tokens_computed == (prompts_computed + 1) * (len(prompts()[1]) - 1), "equal plans do share"
    assert len({tuple(ids(answer)) for answer in several}) == 1
    engine.close()


@pytest.mark.parametrize("deterministic", MODES)
def test_T16_a_change_that_overflows_ends_its_own_row(deterministic: bool) -> None:
    edit = sparse_weights(model().layout)
    broken = steered(WeightCorrection("broken", replace(edit, deltas=edit.deltas * 1e38)))
    requests = eight(Plan())
    requests[3] = replace(requests[3], plan=broken)
    done, base = (serve(model(), some, deterministic=deterministic) for some in (requests, eight(Plan())))
    assert done["3"].finish.reason == "error"
    for i in set(base) - {"3"}:
        assert ids(done[i]) == ids(base[i])
        assert not deterministic or bits(done[i]) == bits(base[i])


def test_a_forward_that_fails_leaves_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model(), EngineConfig(max_rows=2, context=64))
    monkeypatch.setattr(Patch, "added", lambda self, x: 1 / 0)
    assert engine.generate([Request("a", (5, 6), SAMPLING, plans("llama")["one"])])[0].finish.reason == "error"
    assert not any(module._forward_hooks for module in model().hf.modules() if _is_linear(module))
    engine.close()


REFUSED: dict[str, tuple[Unit, str]] = {
    "group": (Unit("group", 1, 2), r"group 2 is out of range 0\.\.1 .*group\.1\.2"),
    "neuron": (Unit("neuron", 1, 128), r"neuron 128 is out of range 0\.\.127 .*neuron\.1\.128"),
    "layer": (Unit("neuron", 4, 0), r"layer 4 is out of range 0\.\.3 .*neuron\.4\.0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_T3_units_the_model_does_not_have(case: str) -> None:
    unit, expected = REFUSED[case]
    edit = sparse_weights(model().layout)
    with pytest.raises(LayerOutOfRange, match=expected):
        _add(model(), replace(edit, units=tuple(sorted((*edit.units, unit)))))


def test_T3_neurons_of_experts_are_refused_with_the_reason() -> None:
    mixtral = tiny_model("mixtral")
    edit = replace(sparse_weights(mixtral.layout), units=(Unit("neuron", 1, 0),))
    with pytest.raises(LayerOutOfRange, match=r"layer 1 is a mixture of experts.*group\.1\.0 to group\.1\.1"):
        _add(mixtral, edit)


@pytest.mark.parametrize(
    "deltas", [torch.zeros(40, 64), torch.zeros(400, 64), torch.zeros(184, 63), torch.zeros(184, 64, dtype=torch.half)]
)
def test_T9_deltas_of_another_shape_or_type(deltas: Tensor) -> None:
    units = (Unit("group", 1, 0), Unit("group", 1, 1), *(Unit("neuron", 2, i) for i in range(8)))
    assert model().layout.num_deltas(units) == 2 * (2 * 4 + 2) * 8 + 8 * 3 == 184
    edit = replace(sparse_weights(model().layout), units=units, deltas=deltas)
    with pytest.raises(InvalidRequest, match=r"deltas must be \[184, 64\] of torch.float32"):
        _add(model(), edit)


def _add(served: LanguageModel, edit: object) -> None:
    plan = steered(WeightCorrection("w", edit))  # type: ignore[arg-type]
    engine = Engine(served, EngineConfig(max_rows=2, context=64))
    try:
        engine.add(Request("a", (5, 6), SAMPLING, plan))
    finally:
        engine.close()
