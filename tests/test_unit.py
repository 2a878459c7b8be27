"""Units and the weights changed in them: strict both ways, and the impossible cannot be made."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steering.correction import EVERYWHERE, Correction, WeightCorrection
from steering.edit import Shift, SparseWeights
from steering.gate import Gate
from steering.lens import LogitLens
from steering.model.layout import layout_of
from steering.plan import Detector, Plan
from steering.site import Site
from steering.unit import Unit, abridged
from tests.models import FAMILY_FIELDS, tiny_hf
from tests.plans import BOTH, COMPLETION, DRIFT, PROMPT

UNITS = (Unit("group", 1, 0), Unit("group", 2, 1), Unit("neuron", 0, 7))
EDIT = SparseWeights(UNITS, torch.arange(12.0).view(6, 2))


@pytest.mark.parametrize("text", ["group.0.0", "group.12.3", "neuron.9.17", "neuron.79.28671"])
def test_parse_inverts_str(text: str) -> None:
    assert str(Unit.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "group", "group.1", "group.1.2.3", "group.01.2", "group.1.02", "group.-1.2", "group.1.+2", "Group.1.2",
     "head.1.2", " group.1.2", "group.1.2\n", "group.1. 2", "group.1.2e1", "group.1.²", "neuron.1.99999999"],
)  # fmt: skip
def test_T3_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a unit reads like"):
        Unit.parse(text)


def test_T3_impossible_units() -> None:
    with pytest.raises(ValueError, match="kind"):
        Unit("head", 1, 2)  # type: ignore[arg-type]
    for layer, index in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match=">= 0"):
            Unit("group", layer, index)


def test_people_see_the_first_units() -> None:
    units = [Unit("neuron", 3, i) for i in range(8)]
    assert abridged(units[:6]) == " ".join(f"neuron.3.{i}" for i in range(6))
    assert abridged(units) == abridged(units[:6]) + " ... (8 units)"


@pytest.mark.parametrize(
    ("units", "deltas", "expected"),
    [
        ((), torch.zeros(6, 2), "at least one"),
        (UNITS[::-1], torch.zeros(6, 2), "ascending"),
        ((UNITS[0], UNITS[0]), torch.zeros(6, 2), "each once"),
        (UNITS, torch.zeros(12), "deltas must be"),
        (UNITS, torch.zeros(2, 2), "deltas must be"),
    ],
)
def test_T3_impossible_changes(units: tuple[Unit, ...], deltas: torch.Tensor, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        SparseWeights(units, deltas)


@pytest.mark.parametrize("gate", [Gate(), Gate(phases=PROMPT), DRIFT, Gate("drift", latch=True)])
def test_changed_weights_act_everywhere_or_not_at_all(gate: Gate) -> None:
    assert WeightCorrection("w", EDIT).gate == WeightCorrection("w", EDIT, Gate(phases=BOTH)).gate == EVERYWHERE
    with pytest.raises(ValueError, match="act always, and in prompt and completion"):
        WeightCorrection("w", EDIT, gate)


def test_plans_with_changed_weights() -> None:
    weights, push = WeightCorrection("w", EDIT), Correction("push", Site("resid_post", 2), Shift(torch.ones(2)))
    plan = Plan("on", corrections=(push,), weight_corrections=(weights,))
    assert (plan.acts, plan.steers_prompt, plan.measures, plan.latches) == (True, True, False, False)
    assert plan.all_corrections == plan.state_corrections == (push, weights)
    assert not replace(plan, strength=0.0).steers_prompt and not replace(plan, mode="observe").acts
    assert not replace(plan, weight_corrections=()).steers_prompt, "a push in the completion alone shares its prompt"
    with pytest.raises(ValueError, match="unique"):
        replace(plan, corrections=(replace(push, name="w"),))
    Plan("on", weight_corrections=(weights,), detector=Detector(LogitLens(0), 0.5))
    with pytest.raises(ValueError, match=r"early layer \(1\) must lie below .* 0\)"):
        Plan("on", weight_corrections=(weights,), detector=Detector(LogitLens(1), 0.5))


def test_a_digest_tells_changed_weights_apart() -> None:
    def digest(edit: SparseWeights, strength: float = 1.0) -> str:
        return Plan("on", weight_corrections=(WeightCorrection("w", edit, strength=strength),)).digest

    others = [
        digest(EDIT, 0.5),
        digest(replace(EDIT, deltas=EDIT.deltas + 1)),
        digest(replace(EDIT, units=(*UNITS[:2], Unit("neuron", 0, 8)))),
        Plan("on").digest,
    ]
    assert len({digest(EDIT), *others}) == 5
    assert digest(EDIT) == digest(replace(EDIT, deltas=EDIT.deltas.clone()))


@pytest.mark.parametrize("family", FAMILY_FIELDS)
def test_units_of_a_block_cover_its_matrices_once(family: str) -> None:
    """All groups and all neurons together are every weight of its linears, none of them twice."""
    layout = layout_of(tiny_hf(family))
    kinds = ("group", "neuron") if layout.mlp_outputs[1] is not None else ("group",)
    counts = {"group": layout.num_groups, "neuron": layout.d_mlp}
    covered: dict[torch.nn.Module, torch.Tensor] = {}
    for unit in (Unit(kind, 1, i) for kind in kinds for i in range(counts[kind])):  # type: ignore[arg-type]
        parts = layout.slices(unit)
        assert sum(part.length for part in parts) == layout.num_deltas([unit])
        for part in parts:
            seen = covered.setdefault(part.linear, torch.zeros_like(part.linear.weight))
            seen.narrow(part.dim, part.first, part.length).add_(1)
    linears = [module for module in layout.blocks[1].modules() if isinstance(module, torch.nn.Linear)]
    assert len(covered) == len(linears) > (3 if family != "mixtral" else 2)
    assert all(torch.equal(seen, torch.ones_like(seen)) for seen in covered.values())
    assert EVERYWHERE.phases > COMPLETION
