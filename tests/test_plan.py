"""Gates, detectors and plans: impossible ones cannot be made; a digest tells apart what can change a token."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from steering.correction import Correction
from steering.edit import LensContrast, Scale, Shift
from steering.gate import Gate, Openness, Phase
from steering.lens import LogitLens, TunedLens
from steering.plan import Detector, Plan
from steering.site import Site
from tests.plans import BOTH, COMPLETION, DRIFT, LATCH, PROMPT, contrast, dola

VECTOR = torch.arange(4.0)
PUSH = Correction("push", Site("resid_post", 2), Shift(VECTOR))
WATCH = Detector(TunedLens(1, torch.eye(4), VECTOR), 0.5, 16)
FULL = Plan("on", "p@1", 0.5, (PUSH, replace(PUSH, name="gated", gate=DRIFT)), (contrast(0.01),), WATCH)


def test_impossible_gates() -> None:
    with pytest.raises(ValueError, match="phases"):
        Gate(phases=frozenset())
    with pytest.raises(ValueError, match="phases"):
        Gate(phases=frozenset({"answer"}))  # type: ignore[arg-type]
    for phases in (PROMPT, BOTH):
        with pytest.raises(ValueError, match="sampled positions"):
            Gate("drift", phases)
    with pytest.raises(ValueError, match="latch"):
        Gate("always", latch=True)


@pytest.mark.parametrize("phase", ["prompt", "completion"])
@pytest.mark.parametrize("openness", ["shut", "latched", "open"])
def test_what_passes_a_gate(phase: Phase, openness: Openness) -> None:
    assert [Gate(phases=p).passes(phase, openness) for p in (PROMPT, COMPLETION, BOTH)] == [
        phase == "prompt",
        phase == "completion",
        True,
    ]
    assert DRIFT.passes(phase, openness) == (phase == "completion" and openness == "open")
    assert LATCH.passes(phase, openness) == (phase == "completion" and openness != "shut")


def test_impossible_plans() -> None:
    with pytest.raises(ValueError, match="needs a detector"):
        Plan("on", corrections=(replace(PUSH, gate=DRIFT),))
    with pytest.raises(ValueError, match="needs a detector"):
        Plan("on", logit_corrections=(contrast(),))
    with pytest.raises(ValueError, match="unique"):
        Plan("on", corrections=(PUSH, PUSH))
    with pytest.raises(ValueError, match="num_candidates"):
        Detector(LogitLens(1), 0.5, 1)


@pytest.mark.parametrize("component", ["resid_post", "attn_z", "mlp_act"])
@pytest.mark.parametrize("early", [0, 1, 2, 3])
def test_the_early_layer_must_lie_below_every_corrected_block(component: str, early: int) -> None:
    """A lens at layer i reads what block i receives: a correction in block i comes after it, one in i - 1 before."""
    detector = Detector(LogitLens(early), 0.5)
    for layer in range(4):
        corrections = (replace(PUSH, site=Site(component, layer)), replace(PUSH, name="last", site=Site(component, 3)))  # type: ignore[arg-type]
        if layer >= early:
            Plan("on", corrections=corrections, detector=detector)
            continue
        with pytest.raises(ValueError, match=rf"early layer \({early}\) must lie below .* {layer}\)"):
            Plan("on", corrections=corrections, detector=detector)


def test_what_acts_and_what_measures() -> None:
    always, watching = Plan("on", corrections=(PUSH,)), replace(FULL, mode="observe")
    assert (Plan().acts, Plan().measures) == (False, False)
    assert (always.acts, always.measures) == (True, False)
    assert (FULL.acts, FULL.measures) == (True, True)
    assert (watching.acts, watching.measures) == (False, True)
    assert not replace(FULL, strength=0.0).acts
    assert not replace(FULL, mode="off").measures
    with_lens = replace(always, detector=WATCH)
    assert not with_lens.measures, "an always gate needs no lens"
    assert replace(with_lens, trace="tokens").measures
    assert Plan(mode="observe", detector=WATCH).measures
    assert [p.latches for p in (FULL, replace(FULL, corrections=(replace(PUSH, gate=LATCH),)))] == [False, True]


def test_a_layer_contrast_needs_no_detector_and_reads_nothing_for_one() -> None:
    alone = Plan("on", logit_corrections=(dola(0, 1),))
    assert (alone.acts, alone.measures, alone.steers_prompt) == (True, False, False)
    assert not replace(alone, detector=WATCH).measures
    assert [edit.bucket for _, edit in alone.layer_contrasts] == [(0, 1)]
    assert not replace(alone, strength=0.0).layer_contrasts + replace(alone, mode="observe").layer_contrasts
    with pytest.raises(ValueError, match="needs a detector"):
        Plan("on", logit_corrections=(dola(0, 1, gate=DRIFT),))


def corrected(**changes: Any) -> Plan:
    return replace(FULL, corrections=(replace(PUSH, **changes), FULL.corrections[1]))


def detecting(**changes: Any) -> Plan:
    return replace(FULL, detector=replace(WATCH, **changes))


CHANGED = {
    "mode": replace(FULL, mode="observe"),
    "strength": replace(FULL, strength=0.25),
    "a correction less": replace(FULL, corrections=FULL.corrections[1:]),
    "a correction more": replace(FULL, corrections=(replace(PUSH, name="again"), *FULL.corrections)),
    "no contrast": replace(FULL, logit_corrections=()),
    "site": corrected(site=Site("resid_post", 1)),
    "component": corrected(site=Site("attn_z", 2)),
    "kind of edit": corrected(edit=Scale(VECTOR)),
    "one value": corrected(edit=Shift(VECTOR + torch.tensor([0, 0, 0, 1e-6]))),
    "shape": corrected(edit=Shift(VECTOR[None])),
    "dtype": corrected(edit=Shift(VECTOR.double())),
    "gate": corrected(gate=DRIFT),
    "latch": replace(FULL, corrections=(PUSH, replace(PUSH, name="gated", gate=LATCH))),
    "phases": corrected(gate=Gate(phases=BOTH)),
    "dose": corrected(strength=0.9),
    "plausibility": replace(FULL, logit_corrections=(replace(contrast(0.01), edit=LensContrast(0.02)),)),
    "layers": replace(FULL, logit_corrections=(dola(0, 1),)),
    "bucket": replace(FULL, logit_corrections=(replace(dola(0, 1), edit=dola(0, 2).edit),)),
    "threshold": detecting(threshold=0.51),
    "candidates": detecting(num_candidates=17),
    "kind of lens": detecting(lens=LogitLens(1)),
    "lens layer": detecting(lens=replace(WATCH.lens, layer=2)),
    "lens weight": detecting(lens=TunedLens(1, 2 * torch.eye(4), VECTOR)),
    "lens bias": detecting(lens=TunedLens(1, torch.eye(4), -VECTOR)),
    "off": Plan(),
}


def test_every_part_changes_the_digest() -> None:
    digests = {name: plan.digest for name, plan in CHANGED.items()} | {"as it was": FULL.digest}
    assert len(set(digests.values())) == len(digests)


def test_what_no_token_depends_on_does_not() -> None:
    assert replace(FULL, profile="other@2", trace="tokens").digest == FULL.digest
    copied = replace(FULL, corrections=tuple(replace(c, edit=Shift(VECTOR.clone())) for c in FULL.corrections))
    assert copied.digest == FULL.digest


def test_equal_numbers_have_one_digest() -> None:
    """1 and 1.0 are equal, and so is what they make; whichever came first."""
    for name, a, b in (("one", 1, 1.0), ("other", 2.0, 2)):
        first = Plan("on", strength=a, corrections=(replace(PUSH, name=name, strength=a),))
        second = Plan("on", strength=b, corrections=(replace(PUSH, name=name, strength=b),))
        assert first == second
        assert first.digest == second.digest
    plans = [
        Plan("on", strength=1, corrections=(replace(PUSH, strength=s, edit=Shift(VECTOR.clone())),)) for s in (1, 1.0)
    ]
    assert plans[0].digest == plans[1].digest


def test_digests_are_those_of_any_process() -> None:
    """Regenerate by printing it, if what goes into a digest is meant to change."""
    assert FULL.digest == "09e78cd5d4032f689a7a74f6249021e279fc6a8a9849b2751a1d431cb6325ab6"


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        FULL.strength = math.inf  # type: ignore[misc]


@pytest.mark.parametrize("gate", [Gate(), Gate(phases=BOTH), DRIFT, LATCH])
def test_nothing_passes_where_it_is_exempt(gate: Gate) -> None:
    assert not any(gate.passes(phase, "exempt") for phase in ("prompt", "completion"))


def test_exempt_spans_are_part_of_a_plan() -> None:
    """Of its digest, since they can change a token; a plan without them is what it was."""
    code, both = (replace(FULL, exempt=frozenset(kinds)) for kinds in (("code",), ("reasoning", "code")))
    assert len({FULL.digest, code.digest, both.digest}) == 3
    assert both.digest == replace(FULL, exempt=frozenset(("code", "reasoning"))).digest
    assert code.steered_at == FULL.steered_at
    assert set(code.opennesses) - set(FULL.opennesses) == {"exempt"}
