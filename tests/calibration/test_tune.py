"""Pinpoint tuning: it lowers its own objective, changes the chosen units alone, and goes on where it was cut off."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from steering.calibration.tune import CHECKPOINT, TuneConfig, _Run, random_units, train, tune
from steering.calibration.tune_data import Example, TuneData
from steering.calibration.tune_loss import reply_terms, text_logprobs
from steering.calibration.tune_parameters import difference, under_training
from steering.edit import SparseWeights
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.errors import LayerOutOfRange, TuningError
from steering.model.loading import LanguageModel, wrap
from steering.model.plain import plain_attention
from steering.unit import Unit
from tests.models import VOCAB_SIZE, byte_tokenizer, tiny_hf, tiny_model
from tests.oracles.patched_hf import patched

UNITS = (Unit("group", 1, 1), Unit("group", 3, 0), Unit("neuron", 2, 5), Unit("neuron", 2, 90))
CONFIG = TuneConfig(
    updates=5,
    batch=6,
    texts=3,
    at_once=2,
    learning_rate=2e-3,
    weight_decay=0.5,
    kl_weight=0.7,
    entropy_weight=0.3,
    checkpoint_every=2,
)


@cache
def data() -> TuneData:
    noise = torch.Generator().manual_seed(8)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(6, VOCAB_SIZE, (count,), generator=noise).tolist())

    def examples(count: int) -> tuple[Example, ...]:
        return tuple(Example(ids(3 + 2 * i), ids(2 + i % 4)) for i in range(count))

    return TuneData(examples(7), examples(5), tuple(ids(4 + 3 * i) for i in range(4)))


def state(model: LanguageModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name].view(torch.int32), other[name].view(torch.int32)) for name in one)


def own_parts(hf: PreTrainedModel, units: tuple[Unit, ...] = UNITS) -> dict[str, Tensor]:
    """Where the units' weights are, by the test's own reckoning."""
    length = tiny_model().layout.num_deltas(units)
    marked = patched(hf, (1.0, SparseWeights(units, torch.ones(length, hf.config.hidden_size))))
    return {name: marked.state_dict()[name] != tensor for name, tensor in hf.state_dict().items()}


@pytest.mark.parametrize(("family", "num_matrices"), [("llama", 11), ("phi3", 6), ("qwen2", 11), ("mixtral", 8)])
def test_the_units_alone_change_and_every_other_weight_keeps_its_bits(family: str, num_matrices: int) -> None:
    model, before = tiny_model(family), tiny_hf(family)
    units = UNITS[:2] if family == "mixtral" else UNITS
    with under_training(model, units) as trained:
        train(model, trained, data(), CONFIG)
        after, edit = state(model), difference(model.layout, units, trained)
    masks, really = own_parts(before, units), patched(before, (1.0, edit)).state_dict()
    for name, start in before.state_dict().items():
        kept, changed = after[name][~masks[name]], after[name][masks[name]] != start[masks[name]]
        assert torch.equal(kept.view(torch.int32), start[~masks[name]].view(torch.int32)), name
        assert changed.float().mean() > 0.95 or not len(changed), name
        torch.testing.assert_close(really[name], after[name], rtol=0, atol=1e-6)
    assert sum(bool(mask.any()) for mask in masks.values()) == num_matrices


def test_the_model_stays_as_it_was_even_under_an_engine() -> None:
    model = tiny_model()
    before, engine = state(model), Engine(model, EngineConfig(context=64))
    attention = model.hf.config._attn_implementation
    edit = tune(model, UNITS[::-1], data(), CONFIG)
    assert edit.units == UNITS and edit.deltas.abs().min(dim=1).values.max() > 0
    assert model.hf.config._attn_implementation == attention != "eager"
    engine.close()
    assert equal(state(model), before)
    assert not any(p.requires_grad or p.grad is not None for p in model.hf.parameters())


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    one, same, other = (tune(tiny_model(), UNITS, data(), replace(CONFIG, seed=s)).deltas for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_it_learns_what_it_is_told_and_the_divergence_holds_it_back() -> None:
    def last(kl_weight: float) -> Any:
        model, config = (
            tiny_model(),
            replace(CONFIG, updates=12, learning_rate=5e-3, kl_weight=kl_weight, entropy_weight=0.0),
        )
        with under_training(model, UNITS) as trained:
            losses = train(model, trained, data(), config)
        assert losses[0].divergence < 1e-6
        return losses[0].reply, losses[-1]

    (first, free), (_, held) = last(0.0), last(3.0)
    assert held.reply < first - 0.3 and free.reply < first - 0.3
    assert held.divergence < 0.7 * free.divergence


def test_entropy_is_rewarded() -> None:
    def entropy(weight: float) -> float:
        model = tiny_model()
        with under_training(model, UNITS) as trained:
            return train(model, trained, data(), replace(CONFIG, updates=8, learning_rate=5e-3, entropy_weight=weight))[
                -1
            ].entropy

    assert entropy(10.0) > entropy(0.0) + 0.01


def naive_loss(now: PreTrainedModel, base: PreTrainedModel, examples: list[Example], texts: list[Any]) -> Tensor:
    """One sequence at a time, by the formula."""

    def logprobs(hf: PreTrainedModel, ids: tuple[int, ...]) -> Tensor:
        distributions: Tensor = hf(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
        return distributions

    ce, entropy, kl, num_reply, num_text = 0.0, 0.0, 0.0, 0, 0
    for example in examples:
        n, p = len(example.reply_ids), logprobs(now, example.prompt_ids + example.reply_ids)
        for i, token in enumerate(example.reply_ids):
            row = p[len(example.prompt_ids) - 1 + i]
            ce, entropy = ce - row[token], entropy - (row.exp() * row).sum()
        num_reply += n
    for text in texts:
        with torch.no_grad():
            q = logprobs(base, text)
        kl = kl + (q.exp() * (q - logprobs(now, text))).sum()
        num_text += len(text)
    return (ce - CONFIG.entropy_weight * entropy) / num_reply + CONFIG.kl_weight * kl / num_text  # type: ignore[operator]


def test_gradients_are_those_of_the_formula_and_masked() -> None:
    """After some updates, when all three terms have a gradient, and in portions of two."""
    model, masks = tiny_model("gemma2"), own_parts(tiny_hf("gemma2"))
    base = tiny_hf("gemma2")
    with under_training(model, UNITS) as trained, plain_attention(model):
        run = _Run(model, trained, data(), replace(CONFIG, clip_norm=1e9))
        for update in range(3):
            run.update(update)
        taken: list[dict[str, Tensor]] = []
        run.optimizer.step = lambda: taken.append(  # type: ignore[method-assign,assignment]
            {name: p.grad.clone() for name, p in model.hf.named_parameters() if p.grad is not None}
        )
        run.update(3)
        now = tiny_hf("gemma2")
        now.load_state_dict(model.hf.state_dict())
    for hf in (now, base):
        hf.set_attn_implementation("eager")
    loss = naive_loss(now, base, data().examples(3, 6, 0), data().texts(3, 3, 0))
    torch.autograd.backward(loss)
    assert len(taken[0]) == 11
    for name, parameter in now.named_parameters():
        if name in taken[0]:
            expected = torch.where(masks[name], parameter.grad, 0.0)
            torch.testing.assert_close(taken[0][name], expected, rtol=1e-3, atol=1e-5)


class _Cut(Exception):
    pass


def cut_after(updates: int) -> Callable[[str], None]:
    def log(line: str) -> None:
        if line.startswith(f"{updates}/"):
            raise _Cut

    return log


@pytest.mark.parametrize("units", [UNITS, None], ids=["units", "everything"])
def test_a_run_that_was_cut_off_ends_with_the_same_bits(units: tuple[Unit, ...] | None, tmp_path: Path) -> None:
    def run(folder: Path | None, log: Callable[[str], None] | None = None) -> tuple[dict[str, Tensor], Any]:
        model = tiny_model()
        with under_training(model, units) as trained:
            losses = train(model, trained, data(), CONFIG, checkpoints=folder, log=log)
            return state(model), losses

    whole, losses = run(None)
    with pytest.raises(_Cut):
        run(tmp_path / "run", cut_after(3))
    seen: list[str] = []
    resumed, again = run(tmp_path / "run", seen.append)
    assert [line.split("/")[0] for line in seen] == ["3", "4", "5"], "it goes on after the last checkpoint"
    assert equal(resumed, whole) and again == losses
    finished, same = run(tmp_path / "run", cut_after(1))
    assert equal(finished, whole) and same == losses, "a finished run has nothing left to do"


def test_L8_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    tune(tiny_model(), UNITS, data(), CONFIG, checkpoints=tmp_path)
    tune(tiny_model(), UNITS, data(), replace(CONFIG, checkpoint_every=1), checkpoints=tmp_path)
    for units, some, config in (
        (UNITS[:2], data(), CONFIG),
        (UNITS, replace(data(), neutral=data().neutral[:2]), CONFIG),
        (UNITS, data(), replace(CONFIG, seed=1)),
    ):
        with pytest.raises(TuningError, match="of another tuning"):
            tune(tiny_model(), units, some, config, checkpoints=tmp_path)
    raw = (tmp_path / CHECKPOINT).read_bytes()
    for damaged in (b"", raw[: len(raw) // 2], b"no checkpoint"):
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        with pytest.raises(TuningError, match="cannot be read"):
            tune(tiny_model(), UNITS, data(), CONFIG, checkpoints=tmp_path)


def test_full_fine_tuning_is_the_same_loop() -> None:
    model, before = tiny_model(), state(tiny_model())
    with under_training(model, None) as trained:
        losses = train(model, trained, data(), replace(CONFIG, updates=3))
        after = state(model)
        assert {part.decays for part in trained if part.parameter.ndim == 1} == {False}
        assert {part.decays for part in trained if part.parameter.ndim == 2} == {True}
    assert losses[-1].reply < losses[0].reply
    assert all((after[name] != tensor).any() for name, tensor in before.items())
    assert equal(state(model), before)


def test_random_units_are_as_many_in_the_same_blocks() -> None:
    layout = tiny_model().layout
    drawn = [random_units(layout, UNITS[1:], seed) for seed in range(30)]
    assert all([unit.kind for unit in units] == ["group", "neuron", "neuron"] for units in drawn)
    assert {unit.layer for units in drawn for unit in units} == {2, 3}
    assert random_units(layout, UNITS, 4) == random_units(layout, UNITS, 4) and len(set(drawn)) > 25
    layout.check_units([unit for units in drawn for unit in units])
    moe = tiny_model("qwen3_moe").layout
    neurons = [random_units(moe, [Unit("neuron", 0, 0)] * 3, seed) for seed in range(5)]
    assert {unit.layer for units in neurons for unit in units} == {1}, "its one dense block"


def test_half_of_every_update_insists_and_passes_are_whole() -> None:
    insist, revise = data().insist, data().revise
    drawn = [data().examples(update, 6, 0) for update in range(7)]
    assert all(set(some[::2]) <= set(insist) and set(some[1::2]) <= set(revise) for some in drawn)
    first_pass = [example for some in drawn for example in some[::2]][: len(insist)]
    assert set(first_pass) == set(insist) and first_pass != list(insist)
    assert data().examples(3, 6, 0) == drawn[3] != data().examples(3, 6, 1)
    texts = [text for update in range(4) for text in data().texts(update, 3, 0)]
    assert {text: texts.count(text) for text in set(texts)} == dict.fromkeys(data().neutral, 3)


def test_a_share_of_the_data() -> None:
    part = data().part(0.4, 0)
    assert (len(part.insist), len(part.revise), part.neutral) == (3, 2, data().neutral)
    assert set(part.insist) < set(data().insist) and part == data().part(0.4, 0) != data().part(0.4, 1)
    assert set(data().part(1.0, 5).insist) == set(data().insist) and len(data().part(1e-9, 0).revise) == 1


def test_the_rate_rises_and_falls() -> None:
    config = TuneConfig()
    rates = [config.rate(update) for update in range(config.updates)]
    assert rates[:3] == pytest.approx([1e-5, 2e-5, 3e-5]) and rates[-1] == pytest.approx(1e-7)
    falls = [a - b for a, b in itertools.pairwise(rates[3:])]
    assert falls == pytest.approx([(3e-5 - 1e-7) / 116] * 116) and rates[3] == pytest.approx(3e-5)
    assert TuneConfig(updates=1, warm_up=0.0).rate(0) == 3e-5


@pytest.mark.parametrize(
    "changes",
    [{"updates": 0}, {"batch": 7}, {"batch": 0}, {"share": 0.0}, {"share": 1.1}, {"warm_up": 1.0}, {"final_rate": 1.0},
     {"learning_rate": math.nan}, {"at_once": 0}, {"texts": 0}],
)  # fmt: skip
def test_impossible_settings(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(TuneConfig(), **changes)


def test_impossible_data() -> None:
    with pytest.raises(ValueError, match="must each have a token"):
        Example((1,), ())
    for name in ("insist", "revise", "neutral"):
        with pytest.raises(ValueError, match=name):
            replace(data(), **{name: ()})


def test_T3_what_cannot_be_tuned() -> None:
    with pytest.raises(LayerOutOfRange, match=r"group 2 is out of range 0\.\.1"):
        tune(tiny_model(), [Unit("group", 1, 2)], data(), CONFIG)
    with pytest.raises(LayerOutOfRange, match="mixture of experts"):
        tune(tiny_model("mixtral"), [Unit("neuron", 1, 2)], data(), CONFIG)
    with pytest.raises(TuningError, match="no units"):
        tune(tiny_model(), [], data(), CONFIG)
    half = wrap(tiny_hf().to(torch.bfloat16), byte_tokenizer(), "half")
    for model, kind in ((half, "bfloat16"), (replace(tiny_model(), quantized="int8"), "int8")):
        with pytest.raises(TuningError, match=f"this one is {kind}: load it with dtype float32"):
            tune(model, UNITS, data(), CONFIG)


def test_a_loss_that_is_not_finite_ends_it() -> None:
    with pytest.raises(TuningError, match=r"loss of update [2-5] is not finite; lower learning_rate"):
        tune(tiny_model(), UNITS, data(), replace(CONFIG, learning_rate=1e30, kl_weight=1.0))


def test_padding_on_the_right_is_not_seen() -> None:
    """The longest of three texts, and the others beside it, as each would be alone."""
    model, texts = tiny_model("gemma3_text"), data().neutral[1:]
    with plain_attention(model), torch.no_grad():
        together = text_logprobs(model, texts)
        alone = torch.cat([text_logprobs(model, [text]) for text in texts])
        each = [torch.stack(reply_terms(model, [example])) for example in data().insist]
        assert torch.allclose(torch.stack(reply_terms(model, data().insist)), torch.stack(each).sum(0), rtol=1e-5)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert F.kl_div(together, alone, log_target=True, reduction="sum").abs() < 1e-4
