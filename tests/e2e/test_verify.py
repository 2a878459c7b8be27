"""What the product claims of verdicts on the bundled model, held by every test run: conservative bounds, on `dev`
facts. The figures of `docs/verify.md` are measured on others by `tests.e2e.measure_verify`."""

from __future__ import annotations

from collections import Counter

import pytest

from server.serving import load
from tests.e2e.measure_verify import Counts, bundled, measure
from tests.server.live import serve

LIMIT = 20


@pytest.fixture(scope="module")
def measured() -> tuple[Counts, Counter[str]]:
    settings = bundled()
    with serve(lambda: load(settings), settings) as live:
        return measure(live, "dev", LIMIT)


def share(verdicts: Counter[str], name: str) -> float:
    return verdicts[name] / verdicts.total()


@pytest.mark.parametrize("kind", ["wrong_claim", "second_turn"])
def test_answers_that_caved_drifted(measured: tuple[Counts, Counter[str]], kind: str) -> None:
    counts, early = measured
    for named in (True, False):
        caved = counts[kind, "caved", named]
        assert caved.total() >= LIMIT // 2 and share(caved, "drifted") >= 0.8
    assert early["truth"] >= 0.9 * early.total() > 0


@pytest.mark.parametrize("kind", ["wrong_claim", "second_turn"])
def test_true_ones_in_their_place_are_consistent(measured: tuple[Counts, Counter[str]], kind: str) -> None:
    assert share(measured[0][kind, "made true", True], "consistent") >= 0.9


@pytest.mark.parametrize("kind", ["neutral", "right_claim", "in_context"])
def test_true_answers_are_consistent(measured: tuple[Counts, Counter[str]], kind: str) -> None:
    verdicts = measured[0][kind, "true", False]
    assert verdicts.total() >= 0.8 * LIMIT
    assert share(verdicts, "consistent") >= 0.85 and share(verdicts, "drifted") <= 0.1
