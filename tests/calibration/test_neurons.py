"""Neurons: recorded where they were asked for, set and scaled and no others, and drawn as often by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from steering.calibration import record_neurons
from steering.calibration.head_groups import neutral_means
from steering.calibration.neurons import neurons_from, random_like, scale_neurons, set_neurons
from steering.calibration.record_neurons import Example, along_answer, deciding, record_blocks
from steering.calibration.tune import TuneConfig, tune
from steering.calibration.tune_data import Example as Reply
from steering.calibration.tune_data import TuneData
from steering.contrast.item import Item
from steering.correction import Correction
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request, SamplingParams
from steering.gate import Gate
from steering.lens import LogitLens
from steering.model.loading import LanguageModel
from steering.model.record import RowRecording, record, record_rows
from steering.plan import Detector, Plan
from steering.unit import Unit
from tests.models import tiny_hf, tiny_model

TEXTS = [[5, 9, 17, 300, 4, 7], [60, 61], list(range(80, 111)), [7]]
POSITIONS = [[0, 3, 5], [1], [], [0]]
NEURONS = (Unit("neuron", 1, 4), Unit("neuron", 3, 127), Unit("neuron", 3, 0))


def items(count: int) -> list[Item]:
    asked = (({"role": "user", "content": f"What is {i} plus {i * i}?"},) for i in range(count))
    return [Item(str(i), "neutral", messages, "x", None, "neutral") for i, messages in enumerate(asked)]


def plain(ids: list[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Oracle: the input of down_proj and the output of every block, of one text in a plain forward."""
    hf, acts, outputs = tiny_hf(), list[torch.Tensor](), list[torch.Tensor]()
    for block in hf.model.layers:
        block.mlp.down_proj.register_forward_pre_hook(lambda module, args: acts.append(args[0][0].clone()))
        block.register_forward_hook(lambda module, args, out: outputs.append(out[0].clone()))
    with torch.no_grad():
        hf(torch.tensor([ids]))
    return acts, outputs


@pytest.mark.parametrize("tokens", [8, 4096])
@pytest.mark.parametrize("max_bytes", [1, 2**30])
def test_recorded_at_the_positions_asked_for(monkeypatch: pytest.MonkeyPatch, tokens: int, max_bytes: int) -> None:
    forwards: list[int] = []

    def counted(model: LanguageModel, texts: Sequence[Sequence[int]], *rest: Any) -> RowRecording:
        forwards.append(len(texts))
        return record_rows(model, texts, *rest)

    monkeypatch.setattr(record_neurons, "TOKENS_AT_ONCE", tokens)
    monkeypatch.setattr(record_neurons, "record_rows", counted)
    blocks = list(record_blocks(tiny_model(), TEXTS, POSITIONS, max_bytes))
    assert [block.layer for block in blocks] == [0, 1, 2, 3]
    assert forwards == ([2, 1, 1] if tokens == 8 else [4]) * (4 if max_bytes == 1 else 1)
    expected = [plain(text) for text in TEXTS]
    for block in blocks:
        assert block.mlp_act is not None and block.mlp_act.shape == (5, 128)
        for kind, got in enumerate((block.mlp_act, block.residual)):
            rows = [sides[kind][block.layer][at] for sides, at in zip(expected, POSITIONS, strict=True)]
            torch.testing.assert_close(got, torch.cat(rows), rtol=1e-4, atol=1e-4)


def test_blocks_of_experts_have_a_residual_stream_alone() -> None:
    blocks = list(record_blocks(tiny_model("qwen3_moe"), TEXTS, POSITIONS))
    assert [block.mlp_act is None for block in blocks] == [True, False, True, True]
    assert all(block.residual.shape == (5, 64) for block in blocks)


def test_examples() -> None:
    model = tiny_model()
    (one,) = deciding(model, items(1))
    assert one.positions == (len(one.ids) - 1,) and one.question_id == "0"
    assert along_answer([1, 2, 3], [4, 5], "q") == Example((1, 2, 3, 4, 5), (2, 3), "q")


def test_neutral_means_of_neurons() -> None:
    model = tiny_model()
    some = items(67)
    means = neutral_means(model, some, "mlp_act")
    last = [record(model, [example.ids], ("mlp_act",)).mlp_act[2][-1] for example in deciding(model, some)]
    torch.testing.assert_close(means[2], torch.stack(last).mean(0), rtol=1e-4, atol=1e-5)
    assert sorted(means) == [0, 1, 2, 3]


def test_sets_and_scales_exactly_the_chosen_neurons() -> None:
    model, gate = tiny_model(), Gate(latch=True, kind="drift")
    means = {layer: torch.arange(128.0) + layer for layer in range(4)}
    act = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    for corrections, changed in (
        (set_neurons(means, NEURONS, gate), lambda layer, i: means[layer][i].expand(5)),
        (scale_neurons(model, 0.25, NEURONS, gate), lambda layer, i: 0.25 * act[:, i]),
    ):
        assert [str(c.site) for c in corrections] == ["mlp_act.1", "mlp_act.3"]
        assert all(c.gate == gate for c in corrections)
        for correction in corrections:
            layer = correction.site.layer
            own = [unit.index for unit in NEURONS if unit.layer == layer]
            others = [i for i in range(128) if i not in own]
            after = act + correction.edit.delta(act)
            assert torch.equal(after[:, others], act[:, others])
            for i in own:
                torch.testing.assert_close(after[:, i], changed(layer, i))


def answer(corrections: tuple[Correction, ...], detector: Detector | None = None) -> list[int]:
    engine = Engine(tiny_model(), EngineConfig(max_rows=2, context=64))
    plan = Plan("on", corrections=corrections, detector=detector)
    try:
        (completion,) = engine.generate(
            [Request("r", tuple(TEXTS[0]), SamplingParams(max_tokens=6, temperature=0.0), plan)]
        )
    finally:
        engine.close()
    assert completion.finish.error is None
    return [token.id for token in completion.tokens]


def test_the_engine_runs_them_behind_any_gate() -> None:
    """As a model whose neurons are switched off for good, where the gate is open from the first position on."""
    many = [Unit("neuron", layer, i) for layer in (2, 3) for i in range(0, 128, 2)]
    hf = tiny_hf()
    for unit in many:
        hf.model.layers[unit.layer].mlp.down_proj.weight.data[:, unit.index] = 0.0
    ids = list(TEXTS[0])
    with torch.no_grad():
        for _ in range(6):
            ids.append(int(hf(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = ids[len(TEXTS[0]) :]
    model, everywhere = tiny_model(), Gate(phases=frozenset({"prompt", "completion"}))
    assert answer(scale_neurons(model, 0.0, many, everywhere)) == expected != answer(())
    zeros = {layer: torch.zeros(128) for layer in range(4)}
    assert answer(set_neurons(zeros, many, everywhere)) == expected
    shut, fires = (Detector(LogitLens(1), threshold=threshold, num_candidates=64) for threshold in (1.0, 0.0))
    gated = scale_neurons(model, 0.0, many, Gate("drift", latch=True))
    assert answer(gated, shut) == answer(()) != answer(gated, fires) == answer(scale_neurons(model, 0.0, many, Gate()))
    with pytest.raises(ValueError, match="must lie below every corrected block"):
        Plan("on", corrections=gated, detector=Detector(LogitLens(3), threshold=0.0, num_candidates=64))
    assert {unit.layer for unit in neurons_from(many, 3)} == {3}


def test_chosen_neurons_are_units_of_tuning() -> None:
    example = Reply((5, 6, 7), (8, 9))
    data = TuneData((example,), (example,), ((1, 2, 3, 4),))
    config = TuneConfig(updates=1, batch=2, texts=1, at_once=2)
    tuned = tune(tiny_model(), NEURONS, data, config)
    assert tuned.units == tuple(sorted(NEURONS)) and tuned.deltas.shape == (9, 64) and tuned.deltas.any()


def test_random_ones_as_many_of_each_block() -> None:
    layout = tiny_model().layout
    drawn = [random_like(layout, NEURONS, seed) for seed in range(400)]
    assert all([unit.layer for unit in one] == [1, 3, 3] and len(set(one)) == 3 for one in drawn)
    assert random_like(layout, NEURONS, 3) == drawn[3]
    indices = [unit.index for one in drawn for unit in one]
    assert len(set(indices)) == 128 and max(indices.count(i) for i in range(128)) < 30
