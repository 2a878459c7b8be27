"""Plots: each shows the numbers it was given, and nothing opens a window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steering.calibration.forced_completion import Geometry
from steering.calibration.localisation import Localisation, Question
from steering.calibration.read_drift import Readings
from steering.calibration.suppression import Suppression

pytest.importorskip("matplotlib")
from steering.calibration import plots

RNG = np.random.default_rng(0)
L, U, N = 5, 3, 4


def localisation(kind: str = "group") -> Localisation:
    patched = RNG.normal(size=(L, U, N))
    patched[1, 2] = np.nan
    question = Question(kind, "direct", "all")  # type: ignore[arg-type]
    return Localisation(question, True, patched, np.ones(N), -np.ones(N), tuple("abcd"), N)


def readings(k: int, named: bool = True) -> Readings:
    values = [RNG.random(size=(L, k)) for _ in range(4)]
    return Readings(*values) if named else Readings(values[0], None, None, None)


def images(figure: object) -> list[np.ndarray]:
    return [np.ma.filled(axes.images[0].get_array(), np.nan) for axes in figure.axes if axes.images]  # type: ignore[attr-defined]


def lines(axes: object) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}  # type: ignore[attr-defined]


def test_importance_map() -> None:
    found = localisation()
    figure = plots.importance_map(found)
    np.testing.assert_array_equal(images(figure)[0], found.importance)
    axes = figure.axes[0]
    assert axes.get_title() == "direct effect, all positions, patched"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("KV group", "block")
    low, high = axes.images[0].get_clim()
    assert -low == high == np.nanmax(np.abs(found.importance)), "white is zero"
    assert plots.importance_map(localisation("head")).axes[0].get_xlabel() == "query head"


def test_a_map_of_nothing_but_zeros_can_be_drawn(tmp_path: Path) -> None:
    zeros = Localisation(Question(), False, np.zeros((L, U, N)), np.zeros(N), -np.ones(N), tuple("abcd"), N)
    figure = plots.importance_map(zeros)
    figure.savefig(tmp_path / "zeros.png")
    assert figure.axes[0].get_title().endswith("estimated from gradients")


def test_a_stored_map_is_the_same_picture() -> None:
    found = localisation()
    stored = np.array(found.as_json()["importance"], dtype=np.float64)
    figure = plots.importances(stored, "KV group", "stored")
    np.testing.assert_array_equal(images(figure)[0], found.importance)
    assert figure.axes[0].get_title() == "stored"


def test_random_units_beside_those_found() -> None:
    axes = plots.null_histogram(0.9, [0.1, 0.11, 0.5]).axes[0]
    assert sum(bar.get_height() for bar in axes.containers[0]) == 3
    assert lines(axes)["those found"] == [0, 1] and axes.get_lines()[0].get_xdata()[0] == 0.9
    assert "3 random sets" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_dose_curve() -> None:
    curve = {"0.25": {"wrong_claim": 0.2, "second_turn": 0.1}, "1": {"wrong_claim": 0.9, "second_turn": 0.8}}
    axes = plots.dose_curve(curve).axes[0]
    assert lines(axes) == {"wrong claim": [0.2, 0.9], "second turn": [0.1, 0.8]}
    assert list(axes.get_lines()[0].get_xdata()) == [0.25, 1.0]


def test_layer_sums() -> None:
    one, other = localisation(), localisation()
    axes = plots.layer_sums({"total": one, "direct": other}).axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    np.testing.assert_allclose(heights, [one.layer_sums, other.layer_sums])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["total", "direct"]


def test_drift_by_layer_side_by_side() -> None:
    named, bare = readings(2), readings(1, named=False)
    figure = plots.drift_by_layer({"one": named, "two": bare}, ("Paris", "Lyon"))
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    assert named.truth is not None and named.claim is not None
    assert set(lines(first)) == {"drift from the output, bits", "P(Paris)", "P(Lyon)"}
    np.testing.assert_allclose(lines(first)["P(Paris)"], named.truth.mean(1))
    np.testing.assert_allclose(lines(first)["P(Lyon)"], named.claim.mean(1))
    np.testing.assert_allclose(lines(second)["drift from the output, bits"], bare.drift[:, 0])
    assert len(lines(second)) == 1 and first.get_ylim() == second.get_ylim()


def test_drift_over_an_answer(tmp_path: Path) -> None:
    read = readings(3)
    figure = plots.drift_over_answer({"one": (read, ["The", " $x$", "\n"])})
    np.testing.assert_array_equal(images(figure)[0], read.drift)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["The", r"\$x\$", r"\n"]
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    figure.savefig(tmp_path / "dollars.png")  # a lone dollar sign must not be taken for mathematics


def test_preference_over_an_answer() -> None:
    one, other = readings(3), readings(3)
    assert one.preference is not None and other.preference is not None
    figure = plots.preference_over_answer({"one": (one, list("abc")), "two": (other, list("abc"))})
    np.testing.assert_array_equal(images(figure)[0], one.preference)
    np.testing.assert_array_equal(images(figure)[1], other.preference)
    limit = max(one.preference.max(), other.preference.max())
    assert {axes.images[0].get_clim() for axes in figure.axes[:2]} == {(-limit, limit)}, "one scale for both"


def test_completion_geometry() -> None:
    geometry = Geometry(*(RNG.random(size=(L + 1, 2)) for _ in range(3)))
    figure = plots.completion_geometry({"one": geometry, "two": geometry})
    above, below = figure.axes[0], figure.axes[2]
    np.testing.assert_allclose(next(iter(lines(above).values())), geometry.angle.mean(1))
    np.testing.assert_allclose(lines(below)["to the truth"], geometry.truth_norm.mean(1))
    np.testing.assert_allclose(lines(below)["to the claim"], geometry.claim_norm.mean(1))
    assert above.get_ylim()[1] > geometry.angle.mean(1).max()


def test_suppression_map() -> None:
    found = Suppression((3, 4), RNG.normal(size=(2, N)), RNG.normal(size=(2, U, N)))
    heads, block = images(plots.suppression_map(found))[:2]
    np.testing.assert_allclose(heads, found.by_head.mean(-1))
    np.testing.assert_allclose(block[:, 0], found.by_block.mean(-1))


@pytest.mark.parametrize("count", [1, 16, 17, 33, 80])
def test_never_more_ticks_than_can_be_read(count: int) -> None:
    patched = np.zeros((count, count, 1))
    figure = plots.importance_map(Localisation(Question(), True, patched, np.zeros(1), -np.ones(1), ("a",), 1))
    ticks = figure.axes[0].get_xticks()
    assert 1 <= len(ticks) <= plots.MOST_TICKS and ticks[0] == 0 and ticks[-1] < count


def test_neuron_weights(tmp_path: Path) -> None:
    weights = {3: RNG.normal(size=20), 7: 5 * RNG.normal(size=20)}
    residual = RNG.normal(size=8)
    figure = plots.neuron_weights(weights, {3: [2], 7: [0, 19]}, (5, residual))
    left, right = figure.axes
    spread = np.concatenate(list(weights.values())).std()
    drawn = np.concatenate([points.get_offsets() for points in left.collections])
    expected = np.stack([np.arange(40), np.concatenate(list(weights.values())) / spread], axis=1)
    np.testing.assert_allclose(drawn[drawn[:, 0].argsort()], expected)
    marked = np.concatenate([points.get_offsets()[:, 0] for points in left.collections[1::2]])
    assert sorted(marked) == [2, 20, 39]
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["3", "7"]
    np.testing.assert_allclose(right.collections[0].get_offsets()[:, 1], residual / residual.std())
    assert right.get_xlabel() == "residual stream after block 5"
    figure.savefig(tmp_path / "neurons.png")
