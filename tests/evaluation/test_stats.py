"""Statistics against brute force, definitions and simulated truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from steering.evaluation.stats import (
    auroc,
    auroc_interval,
    draw_clusters,
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
    ratio_of_effects,
)

CLUSTERS = ["a", "a", "a", "b", "c", "c", "d", "e"]
VALUES = np.array([1.0, 1, 0, 1, 0, 0, 1, 0])


def exact_bootstrap_variance(values: np.ndarray, clusters: list[str]) -> float:
    """Oracle: every one of the k**k ordered draws of clusters, enumerated."""
    names = sorted(set(clusters))
    members = {name: [v for v, c in zip(values, clusters, strict=True) if c == name] for name in names}
    draws = itertools.product(names, repeat=len(names))
    return float(np.var([np.mean([v for name in draw for v in members[name]]) for draw in draws]))


def test_bootstrap_equals_its_enumeration() -> None:
    members, counts = draw_clusters(CLUSTERS)
    weights = counts[:, members]
    means = weights @ VALUES / weights.sum(1)
    assert np.var(means) == pytest.approx(exact_bootstrap_variance(VALUES, CLUSTERS), rel=0.1)


def test_replies_of_one_question_are_drawn_together() -> None:
    members, counts = draw_clusters(CLUSTERS)
    assert members.tolist() == [0, 0, 0, 1, 2, 2, 3, 4]
    assert (counts.sum(1) == 5).all()
    assert counts.mean(0) == pytest.approx(np.ones(5), abs=0.1)
    assert counts[:, 0].var() == pytest.approx(0.8, rel=0.15)  # binomial of 5 draws


def test_intervals_equal_the_same_bootstrap_over_replies() -> None:
    """Against the plain way: every draw's replies listed, then averaged."""
    clusters = [*CLUSTERS, "\0low", "\0high"]
    values = np.array([*VALUES, 0.0, 1.0])
    members, counts = draw_clusters(clusters)
    means = [np.repeat(values, draw[members].astype(int)).mean() for draw in counts]
    interval = mean_interval(VALUES, CLUSTERS)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))))
    assert interval.estimate == 0.5


def test_auroc_interval_equals_the_same_bootstrap_over_pairs() -> None:
    positive, negative = np.array([3.0, 1, 2, 5]), np.array([0.0, 2, 1, 4, 1])
    sides = ["a", "a", "b", "c"], ["a", "b", "c", "d", "d"]
    members, counts = draw_clusters([*sides[0], *sides[1]])
    expected = []
    for draw in counts:
        times = draw[members].astype(int)
        some, others = np.repeat(positive, times[:4]), np.repeat(negative, times[4:])
        if len(some) and len(others):
            expected.append(auroc(some, others))
    interval = auroc_interval(positive, negative, *sides)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(expected, (0.025, 0.975))))


def test_clusters_widen_an_interval() -> None:
    values = np.repeat(np.arange(40) % 2, 5).astype(float)
    by_question = mean_interval(values, [str(i // 5) for i in range(200)])
    by_reply = mean_interval(values, [str(i) for i in range(200)])
    assert by_question.high - by_question.low > 1.8 * (by_reply.high - by_reply.low)


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.98])
def test_intervals_cover_the_truth(rate: float) -> None:
    """150 questions of 2 replies that share half of their luck; nominal 95 % two-sided, 95 % one-sided."""
    rng, repeats = np.random.default_rng(7), 60
    clusters = [str(i // 2) for i in range(300)]
    covered = bounded = 0
    for _ in range(repeats):
        luck = np.repeat(rng.random((150, 1)), 2, axis=1)
        values = np.where(rng.random((150, 2)) < 0.5, luck, rng.random((150, 2))).ravel() < rate
        interval = mean_interval(values.astype(float), clusters)
        covered += interval.low <= rate <= interval.high
        shifted = paired_difference(values.astype(float), np.ones(300), clusters)
        bounded += shifted.bound <= rate - 1
    assert covered / repeats >= 0.9
    assert bounded / repeats >= 0.9


def test_interval_keeps_a_width_where_all_agree() -> None:
    clusters = [str(i) for i in range(150)]
    assert 0.96 < mean_interval(np.ones(150), clusters).low < 0.99
    assert -0.03 < paired_difference(np.ones(150), np.ones(150), clusters).bound < -0.005


def test_paired_difference_is_of_pairs() -> None:
    rng = np.random.default_rng(0)
    off = (rng.random(400) < 0.5).astype(float)
    on = np.where(np.arange(400) % 10 == 0, 1.0, off)
    clusters = [str(i) for i in range(400)]
    paired = paired_difference(on, off, clusters)
    shuffled = paired_difference(on, rng.permutation(off), clusters)
    assert paired.estimate == pytest.approx((on - off).mean())
    assert paired.low < paired.bound < paired.estimate < paired.high
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)
    with pytest.raises(ValueError, match="equal shapes"):
        paired_difference(on, off[:-1], clusters)


def test_ratio_where_few_or_none_show_an_effect() -> None:
    names = [str(i) for i in range(12)]
    off = np.zeros(12)
    on = off.copy()
    on[:2] = 1
    some = ratio_of_effects(on, on, off, names)
    assert (some.estimate, some.low, some.high) == (1.0, 1.0, 1.0)
    assert np.isnan(ratio_of_effects(on, off, off, names).estimate)


def test_auroc_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 6, 30).astype(float), rng.integers(0, 5, 40).astype(float)
    wins = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative)
    assert auroc(positive, negative) == pytest.approx(wins / (30 * 40))
    assert auroc(negative, positive) == pytest.approx(1 - wins / (30 * 40))


def test_auroc_interval_covers_the_truth() -> None:
    """Normals one standard deviation apart: AUROC = Phi(1 / sqrt 2) = .760."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(40):
        interval = auroc_interval(
            rng.normal(1, 1, 80), rng.normal(0, 1, 80), [f"p{i}" for i in range(80)], [f"n{i}" for i in range(80)]
        )
        assert interval.low < interval.estimate < interval.high
        covered += interval.low <= 0.760 <= interval.high
    assert covered / 40 >= 0.85


def test_ratio_of_effects() -> None:
    baseline, reference = np.zeros(200), np.ones(200)
    treated = (np.arange(200) % 4 != 0).astype(float)
    ratio = ratio_of_effects(treated, reference, baseline, [str(i) for i in range(200)])
    assert ratio.estimate == pytest.approx(0.75)
    assert 0.65 < ratio.low < 0.75 < ratio.high < 0.85


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ValueError, match="no replies"):
        mean_interval(np.array([]), [])


def test_mcnemar_is_the_share_of_coin_flips_as_lopsided() -> None:
    on, off = np.array([1.0] * 7 + [0] + [1, 1, 0, 0]), np.array([0.0] * 7 + [1] + [1, 1, 0, 0])
    flips = [sum(flip) for flip in itertools.product((0, 1), repeat=8)]
    assert mcnemar(on, off) == mcnemar(off, on) == sum(abs(f - 4) >= 3 for f in flips) / 2**8
    assert mcnemar(on, on) == 1.0
    assert mcnemar(np.ones(2000), np.zeros(2000)) < 1e-300


def test_mcnemar_holds_its_level() -> None:
    rng = np.random.default_rng(0)
    outcomes = rng.integers(0, 2, size=(1000, 2, 60)).astype(float)
    assert 0.01 < np.mean([mcnemar(on, off) <= 0.05 for on, off in outcomes]) <= 0.06


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
    rng = np.random.default_rng(0)
    any_rejected = np.mean([min(holm(list(p))) <= 0.05 for p in rng.random((2000, 5))])
    assert 0.035 < any_rejected < 0.065
