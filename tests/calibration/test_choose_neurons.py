"""Choose neurons: planted ones are found, by the block's own evidence, and they are what makes the model cave."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from steering.calibration.choose_neurons import NeuronChoice, NeuronConfig, choose_neurons, decode, kurtosis, largest
from steering.calibration.draw_neurons import draw_neurons
from steering.calibration.fit_probe import Probe, Quality
from steering.calibration.neurons import random_like, scale_neurons
from steering.calibration.probe_blocks import BlockFit, NeuronData, part_questions, pool, probe_blocks, tabulate
from steering.calibration.record_neurons import Example, along_answer
from steering.calibration.sae import SparseAutoencoder
from steering.calibration.train_sae import SaeConfig, SaeFit
from steering.correction import Correction
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request, SamplingParams
from steering.errors import CalibrationError
from steering.evaluation.stats import Interval
from steering.gate import Gate
from steering.model.record import record
from steering.plan import Plan
from steering.unit import Unit
from tests.calibration.planted_neurons import BLOCK, NO, PLANTED, WORDS, YES, D, F, L, planted_data, planted_model
from tests.models import tiny_model

CONFIG = NeuronConfig(share=0.03, most_blocks=3, sae=SaeConfig(k=8, updates=150, batch=128, dead_after=2000))
model = cache(planted_model)


@cache
def chosen() -> NeuronChoice:
    return choose_neurons(model(), planted_data(), CONFIG)


def answers(examples: Sequence[Example], corrections: tuple[Correction, ...] = ()) -> list[int]:
    engine = Engine(model(), EngineConfig(max_rows=32, context=32))
    plan, sampling = Plan("on", corrections=corrections), SamplingParams(max_tokens=1, temperature=0.0)
    requests = [Request(str(i), example.ids, sampling, plan) for i, example in enumerate(examples)]
    try:
        return [completion.tokens[0].id for completion in engine.generate(requests)]
    finally:
        engine.close()


def test_the_planted_model_caves_by_its_planted_neurons_alone() -> None:
    data = planted_data()
    assert set(answers(data.sycophantic)) == {YES} and set(answers(data.other)) == {NO}
    off = scale_neurons(model(), 0.0, PLANTED, Gate())
    assert set(answers(data.sycophantic, off)) == {NO}


def test_planted_neurons_are_found() -> None:
    choice = chosen()
    assert (
        len(choice.neurons)
        == round(0.03 * L * F)
        == choice.counts[BLOCK] + (len(choice.neurons) - choice.counts[BLOCK])
    )
    assert choice.layers[0] == BLOCK
    found = len(set(PLANTED) & set(choice.neurons)) / len(PLANTED)
    by_chance = [len(set(PLANTED) & set(random_like(model().layout, choice.neurons, seed))) for seed in range(50)]
    assert found == 1.0 and sum(by_chance) / 50 / len(PLANTED) < 0.3
    strongest = largest(choice.weights, len(PLANTED))
    assert set(strongest) == set(PLANTED)


def test_the_choice_turns_the_answers_and_random_ones_do_not() -> None:
    caving = planted_data().sycophantic
    assert set(answers(caving, scale_neurons(model(), 0.0, chosen().neurons, Gate()))) == {NO}
    random_ones = [unit for unit in random_like(model().layout, chosen().neurons, 1) if unit not in PLANTED]
    assert set(answers(caving, scale_neurons(model(), 0.0, random_ones, Gate()))) == {YES}


def test_evidence() -> None:
    choice = chosen()
    assert choice.quality.auroc.low > 0.9 and choice.quality.accuracy.low > 0.85
    assert choice.blocks[BLOCK][1].auroc.estimate == max(own.auroc.estimate for _, own in choice.blocks.values())
    everything, late, listed = (choice.sets[name] for name in ("all", "last 30 %", "listed by O'Brien et al."))
    assert everything is not None and everything.auroc.estimate > 0.9
    assert late is not None and listed is None, "the model has none of the listed blocks"
    assert choice.residual.quality.auroc.estimate > 0.9 and choice.residual.weights.shape == (D,)
    assert choice.residuals[choice.residual.layer] == choice.residual.quality and len(choice.residuals) == L
    document = choice.as_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["neurons"] == {
        str(layer): [unit.index for unit in choice.neurons if unit.layer == layer] for layer in choice.counts
    }
    assert document["share"] == pytest.approx(0.03, abs=0.002) and document["num_questions"] == 60
    assert (
        document["kurtosis"]["neurons"] == kurtosis(torch.cat([choice.weights[layer] for layer in choice.layers])) > 5
    )


def test_from_a_layer_on_and_interrupted(tmp_path: Path) -> None:
    """A second choice finds the SAEs of the first, and is the one that a first would have been."""
    whole: list[str] = []
    first = choose_neurons(model(), planted_data(), CONFIG, checkpoints=tmp_path, log=whole.append)
    assert first.neurons == chosen().neurons and sum("150/150" in line for line in whole) == L
    again: list[str] = []
    config = replace(CONFIG, from_layer=BLOCK)
    second = choose_neurons(model(), planted_data(), config, checkpoints=tmp_path, log=again.append)
    assert not any("150/150" in line for line in again)
    assert min(second.counts) >= BLOCK and set(PLANTED) <= set(second.neurons)


def test_nothing_to_choose_from() -> None:
    data, config = planted_data(0), replace(CONFIG, sae=replace(CONFIG.sae, updates=2))
    with pytest.raises(CalibrationError, match="Lower from_layer"):
        choose_neurons(model(), data, replace(config, from_layer=L), log=None)
    with pytest.raises(CalibrationError, match="mixtures of experts"):
        choose_neurons(tiny_model("mixtral"), data, config)
    with pytest.raises(CalibrationError, match="train has 3 sycophantic and 0 other"):
        choose_neurons(model(), NeuronData(data.sycophantic[:5], ()), config)


def test_T9_an_sae_of_another_width() -> None:
    sae = SparseAutoencoder(*(torch.zeros(s) for s in ((D, 8), (8,), (8, D), (D,), (8,))))
    with pytest.raises(CalibrationError, match=f"SAE for block 1 is {D} wide; expected {F}"):
        choose_neurons(model(), planted_data(0), CONFIG, saes={1: sae})


def test_given_saes_are_used_and_need_no_training() -> None:
    """Every neuron its own feature: the probe is one on neurons."""
    eye, none = torch.eye(F), torch.zeros(F)
    saes = {layer: SparseAutoencoder(eye, none, eye, none, none) for layer in range(L)}
    lines: list[str] = []
    choice = choose_neurons(model(), planted_data(0), CONFIG, saes=saes, log=lines.append)
    assert not any("/150" in line for line in lines) and choice.blocks[BLOCK][0].rows == 0
    assert any(unit in PLANTED for unit in largest(choice.weights, 1))


def test_answers_of_several_tokens_are_pooled() -> None:
    data, rng = planted_data(0), random.Random(1)

    def longer(example: Example) -> Example:
        prompt, said = example.ids, (rng.choice(WORDS), rng.choice(WORDS))
        return along_answer(prompt, (*said, NO), example.question_id)

    pooled = NeuronData([longer(e) for e in data.sycophantic], [longer(e) for e in data.other], planted_data().texts)
    assert len(set(PLANTED) & set(choose_neurons(model(), pooled, CONFIG).neurons)) >= 7


def test_saes_see_no_question_that_chooses_or_measures() -> None:
    data, seen = planted_data(), list[torch.Tensor]()
    table = tabulate(data, seed=0)

    def train(layer: int, x: torch.Tensor) -> tuple[SparseAutoencoder, SaeFit]:
        seen.append(x)
        return SparseAutoencoder(*(torch.zeros(s) for s in ((F, 4), (4,), (4, F), (F,), (4,)))), SaeFit(0, 0, 0, 0)

    blocks = list(probe_blocks(model(), table, data.texts, train))
    assert all(found is None for found, _ in blocks), "an SAE without features tells nothing"
    own = [e for e, part in zip(table.examples, table.parts, strict=True) if part == "train"]
    recording = record(model(), [*(e.ids for e in own), *data.texts], ("mlp_act",))
    ends = recording.ends[: len(own)]
    rows = [*(end - 1 for end in ends), *range(ends[-1], recording.ends[-1])]
    for layer, x in enumerate(seen):
        torch.testing.assert_close(x, recording.mlp_act[layer][rows], rtol=1e-4, atol=1e-5)


def test_drawn_and_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    choice = chosen()
    numbers, picture = draw_neurons(choice, tmp_path / "new")
    document = json.loads(numbers.read_text())
    assert document["probe"]["auroc"][0] == pytest.approx(choice.quality.auroc.estimate, abs=1e-4)
    assert sorted(document["weights"]) == sorted(map(str, choice.layers))
    drawn = torch.tensor(document["weights"][str(BLOCK)])
    torch.testing.assert_close(drawn, choice.weights[BLOCK], rtol=1e-4, atol=1e-6)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_pooling_by_hand() -> None:
    x = torch.tensor([[1.0, -2.0], [3.0, -4.0], [5.0, 6.0]])
    assert torch.equal(pool(x, [2, 1]), torch.tensor([[3.0, -2.0, 2.0, -3.0], [5.0, 6.0, 5.0, 6.0]]))


def test_weights_go_back_through_the_decoders() -> None:
    quality = Quality(*[Interval(1.0, 1.0, 1.0)] * 2)
    blocks = [
        BlockFit(
            layer,
            SaeFit(0, 0, 0, 0),
            quality,
            torch.zeros(1, size),
            torch.arange(float(size * 3)).view(size, 3) + layer,
        )
        for layer, size in ((4, 2), (1, 1))
    ]
    probe = Probe(torch.tensor([1.0, -1.0, 3.0]), 0.0, torch.zeros(3), torch.tensor([2.0, 1.0, 0.5]), 0.0)
    weights = decode(probe, blocks)
    torch.testing.assert_close(weights[4], 2 * torch.tensor([4.0, 5, 6]) - torch.tensor([7.0, 8, 9]))
    torch.testing.assert_close(weights[1], 1.5 * torch.tensor([1.0, 2, 3]))
    assert largest({0: torch.tensor([0.1, -5.0]), 3: torch.tensor([4.0, 0.2])}, 2) == (
        Unit("neuron", 0, 1),
        Unit("neuron", 3, 0),
    )


def test_kurtosis_of_outliers() -> None:
    noise = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    assert kurtosis(noise) == pytest.approx(3, abs=0.2)
    assert (kurtosis(torch.cat([noise, torch.tensor([40.0])])) or 0) > 10 and kurtosis(torch.ones(4)) is None


def test_no_question_is_in_two_parts() -> None:
    table = tabulate(planted_data(0), seed=5)
    by_question: dict[str, set[str]] = {}
    for example, part in zip(table.examples, table.parts, strict=True):
        by_question.setdefault(example.question_id, set()).add(part)
    assert all(len(parts) == 1 for parts in by_question.values()) and len(by_question) == 60
    assert [table.parts.count(part) for part in ("train", "validation", "test")] == [108, 36, 36]
    assert table.parts[-108:] == ("train",) * 108
    one, other = (part_questions(set(by_question), seed) for seed in (5, 6))
    assert one != other and {q: next(iter(parts)) for q, parts in by_question.items()} == one


@pytest.mark.parametrize("positions", [(), (5,), (-1,), (0, 9)])
def test_positions_outside_the_text(positions: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"some of 0\.\.4"):
        Example((1, 2, 3, 4, 5), positions, "q")


@pytest.mark.parametrize("field", [{"share": 0.0}, {"share": 1.1}, {"from_layer": -1}, {"most_blocks": 0}])
def test_impossible_settings(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        NeuronConfig(**field)  # type: ignore[arg-type]
