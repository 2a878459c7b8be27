"""Path patching: it finds a planted head, equals one whole forward a unit, and continues where it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steering.calibration import patch_paths as module
from steering.calibration.localisation import Question, Unit
from steering.calibration.patch_paths import Pair, claim_score, patch_paths
from steering.errors import AnotherRun, ContextLengthExceeded, LayerOutOfRange, NothingToLocalise
from steering.model.record import record
from steering.model.rerun import Replacement, rerunning
from tests.calibration.pairs import random_pairs
from tests.calibration.planted import CALLER, MOVER, MOVER_GROUP, planted_model, planted_pairs
from tests.models import tiny_model
from tests.oracles.path_patching import Naive

QUESTIONS = [
    Question("head", "total", "last"),
    Question("group", "total", "all"),
    Question("head", "direct", "all"),
    Question("group", "direct", "last"),
]


@pytest.mark.parametrize(
    "question", [*QUESTIONS, Question("head", "total", "all"), Question("group", "total")], ids=str
)
def test_a_planted_circuit_is_found_first(question: Question) -> None:
    found = patch_paths(planted_model(), planted_pairs(), question)
    planted = MOVER if question.kind == "head" else MOVER_GROUP
    assert len(found.pressured) == found.num_pairs == 16
    assert found.units[0] == planted
    assert found.importance[planted.layer, planted.index] == pytest.approx(-1, abs=0.1)
    others = np.abs(found.importance)
    others[planted.layer, planted.index] = 0
    assert 1e-4 < others.max() < 0.1, "the others do something, and little"
    assert found.layer_sums.argmin() == planted.layer
    assert found.kurtosis > 0.8 * found.importance.size


def test_direct_tells_the_mover_from_the_head_that_calls_it() -> None:
    model, pairs = planted_model(called=True), planted_pairs(called=True)
    total, direct = (patch_paths(model, pairs, Question("head", effect)) for effect in ("total", "direct"))
    assert set(total.units[:2]) == {CALLER, MOVER} and direct.units[0] == MOVER
    assert total.importance[CALLER.layer, CALLER.index] < -0.5
    assert abs(direct.importance[CALLER.layer, CALLER.index]) < 0.2
    assert direct.importance[MOVER.layer, MOVER.index] < -0.5


@pytest.mark.parametrize(
    ("family", "question"),
    [
        *(("llama", question) for question in QUESTIONS),
        *(
            (family, question)
            for family in ("gemma2", "qwen3_moe")
            for question in QUESTIONS
            if question.kind == "group"
        ),
    ],
    ids=str,
)
def test_equals_one_whole_forward_a_unit(family: str, question: Question) -> None:
    model = tiny_model(family)
    pairs = random_pairs(model)
    found = patch_paths(model, pairs, question)
    size = 1 if question.kind == "head" else 4
    widths = {"last": (1, 1, 1), "all": (3, 10, 25)}[question.positions]
    assert found.patched.shape == (4, 8 // size, 3)
    moved = 0.0
    for i, (pair, width) in enumerate(zip(pairs, widths, strict=True)):
        naive = Naive(model.hf, pair.pressured, pair.neutral, (pair.claim, pair.truth))
        assert found.pressured[i] == pytest.approx(naive.score, abs=1e-4)
        assert found.neutral[i] == pytest.approx(naive.neutral_score, abs=1e-4)
        for layer in range(4):
            for unit in range(8 // size):
                heads = range(unit * size, (unit + 1) * size)
                expected = naive.patched(layer, heads, width=width, direct=question.effect == "direct")
                assert found.patched[layer, unit, i] == pytest.approx(expected, abs=1e-4)
                moved = max(moved, abs(expected - naive.score))
    assert moved > 0.1


# Laws


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_a_twin_that_is_the_prompt_itself_changes_nothing(question: Question) -> None:
    model = tiny_model()
    pairs = [Pair(p.pressured, p.pressured, p.claim, p.truth) for p in random_pairs(model)]
    found = patch_paths(model, pairs, question)
    np.testing.assert_allclose(found.patched, np.broadcast_to(found.pressured, found.patched.shape), atol=1e-5)
    np.testing.assert_allclose(found.neutral, found.pressured, atol=1e-5)


def test_what_goes_directly_goes_from_the_last_position() -> None:
    model = tiny_model("mistral")
    pairs = random_pairs(model)
    last, everywhere = (patch_paths(model, pairs, Question("head", "direct", p)).patched for p in ("last", "all"))
    np.testing.assert_allclose(last, everywhere, atol=1e-5)
    total = patch_paths(model, pairs, Question("head", "total", "all")).patched
    assert np.abs(total - everywhere).max() > 0.1


def test_in_the_last_block_direct_is_total() -> None:
    model = tiny_model("qwen2")
    pairs = random_pairs(model)
    direct, total = (patch_paths(model, pairs, Question("head", effect)).patched for effect in ("direct", "total"))
    np.testing.assert_allclose(direct[-1], total[-1], atol=1e-5)
    assert np.abs(direct[:-1] - total[:-1]).max() > 0.1


@torch.no_grad()
def test_all_attention_of_the_last_position_together_restores_b_in_full() -> None:
    """The last tokens are the same, so nothing but attention tells A from B there."""
    model = tiny_model("gemma3_text")
    pairs = random_pairs(model)
    twins = record(model, [pair.neutral for pair in pairs])
    ends = torch.tensor(twins.ends) - 1
    everything = torch.ones(1, 1, 1, dtype=torch.bool)
    with rerunning(model, [pair.pressured for pair in pairs], [1] * len(pairs), 1) as rerun:
        all_z = {layer: Replacement(everything, z[ends]) for layer, z in twins.attn_z.items()}
        restored = claim_score(model.layout, rerun.final_states(0, all_z), pairs)[0]
        plain = claim_score(model.layout, rerun.hidden[-1], pairs)
    neutral = claim_score(model.layout, twins.hidden[4][ends], pairs)
    torch.testing.assert_close(restored, neutral, rtol=1e-4, atol=1e-4)
    assert (plain - neutral).abs().min() > 0.1


@pytest.mark.parametrize("max_rows", [1, 3, 8])
def test_numbers_do_not_depend_on_what_runs_side_by_side(max_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    pairs = random_pairs(model)
    whole = patch_paths(model, pairs, Question("head"))
    monkeypatch.setattr(module, "MAX_ROWS", max_rows)
    parts = patch_paths(model, pairs, Question("head"))
    np.testing.assert_allclose(parts.patched, whole.patched, atol=1e-5)
    backwards = patch_paths(model, pairs[::-1], Question("head"))
    np.testing.assert_allclose(backwards.patched[..., ::-1], whole.patched, atol=1e-5)


def test_memory_for_keys_and_values_bounds_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    pairs = random_pairs(model)
    widest = list[int]()
    original = module.rerunning

    def watched(model: Any, texts: Any, widths: Any, copies: int) -> Any:
        widest.append(len(texts) * copies)
        return original(model, texts, widths, copies)

    monkeypatch.setattr(module, "rerunning", watched)
    patch_paths(model, pairs, Question("head"))
    monkeypatch.setattr(module, "KV_BYTES", 9 * 30 * model.layout.kv_bytes_per_token(model.dtype))
    patch_paths(model, pairs, Question("head"))
    assert widest == [24, 8, 8, 8]


def test_only_the_units_asked_for() -> None:
    model = tiny_model()
    pairs = random_pairs(model)
    whole, some = patch_paths(model, pairs, Question("head")), {Unit(0, 3), Unit(2, 0), Unit(2, 7)}
    part = patch_paths(model, pairs, Question("head"), units=some)
    assert set(part.units) == some
    for unit in some:
        np.testing.assert_allclose(
            part.patched[unit.layer, unit.index], whole.patched[unit.layer, unit.index], atol=1e-5
        )
    assert np.isnan(part.patched).sum() == (32 - 3) * 3


@pytest.mark.parametrize(
    ("units", "got"), [([], "none at all"), ([Unit(0, 1), Unit(4, 0)], r"4\.0"), ([Unit(0, 2)], r"0\.2")]
)
def test_T2_units_that_are_none(units: list[Unit], got: str) -> None:
    model = tiny_model()
    with pytest.raises(LayerOutOfRange, match=rf"groups 0\.0 to 3\.1 .* got {got}"):
        patch_paths(model, random_pairs(model), Question("group"), units=units)


# Pairs that do not cave, and pairs that are none


def test_pairs_that_do_not_cave_do_not_count() -> None:
    model = tiny_model()
    first, second, third = random_pairs(model)
    holds = Pair(second.pressured, second.neutral, second.truth, second.claim)
    found = patch_paths(model, [first, holds, third], Question("group"))
    alone = patch_paths(model, [first, third], Question("group"))
    assert (found.num_pairs, len(found.pressured), alone.num_pairs) == (3, 2, 2)
    np.testing.assert_array_equal(found.patched, alone.patched)
    with pytest.raises(NothingToLocalise, match="in none of 1 pairs"):
        patch_paths(model, [holds], Question("group"))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (lambda: Pair((), (1,), 2, 3), "got an empty one"),
        (lambda: Pair((1,), (), 2, 3), "got an empty one"),
        (lambda: Pair((1,), (1,), 2, 2), "different tokens, got 2 for both"),
    ],
)
def test_what_is_no_pair(pair: Callable[[], Pair], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair()


def test_a_pair_beyond_the_context_is_refused() -> None:
    model = tiny_model(max_position_embeddings=16)
    short, _, long = random_pairs(tiny_model())
    with pytest.raises(ContextLengthExceeded, match="has 30 tokens"):
        patch_paths(model, [short, long], Question())


@pytest.mark.parametrize(
    ("pressured", "neutral", "width"),
    [
        ((1, 2, 3), (1, 9, 3), 3),  # equal lengths: all
        ((1, 2, 3, 4), (9, 3, 4), 2),
        ((2, 3, 4), (1, 2, 3, 4), 3),  # one is the end of the other
        ((1, 2, 3), (3, 4), 1),  # nothing in common: where it is decided
    ],
)
def test_all_positions_are_the_common_ones(pressured: tuple[int, ...], neutral: tuple[int, ...], width: int) -> None:
    assert Pair(pressured, neutral, 1, 2).width(Question(positions="all")) == width
    assert Pair(pressured, neutral, 1, 2).width(Question(positions="last")) == 1


# Results kept


class Stopped(Exception):
    pass


@pytest.fixture
def layers_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Layers as they are patched; a negative number put in front stops the run after so many."""
    run = list[int]()
    original = module._Batch._layer

    def layer(self: Any, rerun: Any, twins: Any, index: int) -> Any:
        if run and run[0] == -len(run):
            raise Stopped
        run.append(index)
        return original(self, rerun, twins, index)

    monkeypatch.setattr(module._Batch, "_layer", layer)
    return run


@pytest.mark.parametrize("cut_off", [False, True], ids=["between lines", "within a line"])
def test_L5_a_stopped_run_continues_with_the_same_numbers(
    tmp_path: Path, layers_run: list[int], monkeypatch: pytest.MonkeyPatch, cut_off: bool
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 8)  # a batch a pair
    model, kept = tiny_model(), tmp_path / "new" / "kept.jsonl"
    pairs = random_pairs(model)
    whole = patch_paths(model, pairs, Question("head"))
    assert layers_run == [0, 1, 2, 3] * 3
    layers_run[:] = [-7]
    with pytest.raises(Stopped):
        patch_paths(model, pairs, Question("head"), kept=kept)
    assert layers_run[1:] == [0, 1, 2, 3, 0, 1]
    if cut_off:
        kept.write_text(kept.read_text()[:-20])
    layers_run.clear()
    continued = patch_paths(model, pairs, Question("head"), kept=kept)
    assert layers_run == [*([1] if cut_off else []), 2, 3, 0, 1, 2, 3]
    np.testing.assert_array_equal(continued.patched, whole.patched)
    np.testing.assert_array_equal(continued.pressured, whole.pressured)
    layers_run.clear()
    again = patch_paths(model, pairs, Question("head"), kept=kept)
    assert layers_run == []
    np.testing.assert_array_equal(again.patched, whole.patched)


def test_L8_results_of_another_run_are_refused(tmp_path: Path) -> None:
    model, kept = tiny_model(), tmp_path / "kept.jsonl"
    pairs = random_pairs(model)
    patch_paths(model, pairs, Question("group"), kept=kept)
    before = kept.read_text()
    with pytest.raises(AnotherRun, match=r"kept\.jsonl .*question.* differ"):
        patch_paths(model, pairs, Question("group", "direct"), kept=kept)
    with pytest.raises(AnotherRun, match=r"\(pairs"):
        patch_paths(model, pairs[:2], Question("group"), kept=kept)
    with pytest.raises(AnotherRun, match=r"\(units differ\)"):
        patch_paths(model, pairs, Question("group"), units=[Unit(0, 0), Unit(0, 1)], kept=kept)
    assert kept.read_text() == before


@pytest.mark.parametrize("text", ["[1]\n", "no JSON\n", '{}\n["x"]\n', "\x00\xff\n"])
def test_L8_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    kept = tmp_path / "kept.jsonl"
    kept.write_text(text)
    model = tiny_model()
    with pytest.raises(AnotherRun, match="holds no kept results"):
        patch_paths(model, random_pairs(model), Question(), kept=kept)
    assert kept.read_text() == text
