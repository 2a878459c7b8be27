"""Candidates: what a variant means for a plan, and which of two equally good ones is cheaper."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from steering.calibration.candidate import Candidate, Variant, plan_of, variants
from steering.calibration.head_groups import set_to_means
from steering.calibration.localisation import Unit
from steering.lens import LogitLens
from steering.plan import Detector
from tests.models import tiny_model

MEANS = {layer: torch.ones(64) for layer in range(4)}
DETECTOR = Detector(LogitLens(2), threshold=0.2)
SET = partial(set_to_means, tiny_model().layout, MEANS)


def test_every_gate_meets_every_dose() -> None:
    options = variants([0.2, 0.4])
    assert len(set(options)) == len(options) == 2 * 2 * 2 + 2 + 2 * 3
    assert {v.threshold for v in options if v.waits and v.dose < 0} == {0.2}
    assert not any(v.waits for v in variants(()))
    assert options[0] == Variant("drift", 0.2, 1.0), "the plain one comes first"


@pytest.mark.parametrize(
    ("variant", "phases", "threshold"),
    [
        (Variant("drift", 0.4), {"completion"}, 0.4),
        (Variant("latch", 0.4, 0.5), {"completion"}, 0.4),
        (Variant("answer"), {"completion"}, 0.2),
        (Variant("everywhere", dose=-0.5), {"prompt", "completion"}, 0.2),
    ],
)
def test_a_plan_does_what_the_variant_says(variant: Variant, phases: set[str], threshold: float) -> None:
    plan = plan_of(Candidate((Unit(2, 0), Unit(3, 1)), variant), SET, DETECTOR)
    assert [str(c.site) for c in plan.corrections] == ["attn_z.2", "attn_z.3"]
    for correction in plan.corrections:
        assert correction.strength == variant.dose and correction.gate.phases == phases
        assert (correction.gate.kind == "drift") is variant.waits and correction.gate.latch is (variant.when == "latch")
    assert plan.detector is not None and plan.detector.threshold == threshold


def test_without_a_detector_there_is_none() -> None:
    assert plan_of(Candidate((Unit(0, 0),), Variant("answer")), SET, None).detector is None


def test_what_changes_least_waits_fires_seldom_and_touches_little() -> None:
    one, two = (Unit(2, 0),), (Unit(2, 0), Unit(3, 1))
    ordered = [
        Candidate(one, Variant("drift", 0.4)),
        Candidate(two, Variant("drift", 0.4)),
        Candidate(one, Variant("drift", 0.2)),
        Candidate(one, Variant("latch", 0.2)),
        Candidate(one, Variant("answer")),
        Candidate(one, Variant("everywhere")),
    ]
    shuffled = [ordered[i] for i in (4, 1, 5, 0, 3, 2)]
    assert sorted(shuffled, key=lambda candidate: candidate.price) == ordered
    assert [str(c) for c in (ordered[0], ordered[3])] == ["2.0, drift 0.400", "2.0, latch 0.200"]
    assert str(Candidate(two, Variant("answer", dose=0.5))) == "2.0 3.1, answer x 0.5"


@pytest.mark.parametrize(
    ("larger", "smaller", "includes"),
    [
        (Variant("drift", 0.2), Variant("drift", 0.4), True),
        (Variant("drift", 0.4), Variant("drift", 0.2), False),
        (Variant("latch", 0.2), Variant("drift", 0.2), True),
        (Variant("drift", 0.2), Variant("latch", 0.2), False),
        (Variant("answer"), Variant("latch", 0.2), True),
        (Variant("latch", 0.2), Variant("answer"), False),
        (Variant("everywhere"), Variant("answer"), True),
        (Variant("drift", 0.2, 0.5), Variant("drift", 0.2), False),
        (Variant("drift", 0.2), Variant("drift", 0.2, -0.5), False),
    ],
)
def test_what_does_no_less(larger: Variant, smaller: Variant, includes: bool) -> None:
    one, two = (Unit(2, 0),), (Unit(2, 0), Unit(3, 1))
    assert Candidate(two, larger).includes(Candidate(one, smaller)) is includes
    assert Candidate(two, larger).includes(Candidate(two, smaller)) is includes
    assert not Candidate(one, larger).includes(Candidate(two, smaller))
    assert Candidate(one, larger).includes(Candidate(one, larger))
