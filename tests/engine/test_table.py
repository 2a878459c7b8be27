"""The steering table against a plan read token by token; and what it keeps from one step to the next."""

from __future__ import annotations

import random
from collections.abc import Sequence as Several
from functools import cache

import pytest
import torch
from torch import Tensor

from steering.edit import Project, Scale, Set, Shift
from steering.engine.request import Request, SamplingParams
from steering.engine.scheduler import Batch, Chunk
from steering.engine.sequence import Sequence
from steering.engine.table import SteeringTable
from steering.gate import Gate
from steering.lens import LogitLens
from steering.model.hooks import Dose, Taps
from steering.model.layout import Layout, layout_of
from steering.plan import Detector, Plan
from steering.site import Site
from tests.models import tiny_hf
from tests.plans import BOTH, COMPLETION, LATCH, PROMPT, correction, steered, tuned

SITES = (Site("attn_z", 2), Site("mlp_act", 2), Site("resid_post", 3))
GATES = (Gate(), LATCH, Gate(phases=BOTH), Gate(phases=PROMPT), Gate(phases=COMPLETION))


@cache
def layout() -> Layout:
    return layout_of(tiny_hf())


def table(*, deterministic: bool = False) -> SteeringTable:
    return SteeringTable(layout(), dtype=torch.float32, deterministic=deterministic)


def sequence(plan: Plan, *, latched: bool = False, decodes: bool = True) -> Sequence:
    made = Sequence(Request("", (1,) * 9, SamplingParams(4), plan), detokenizer=None)  # type: ignore[arg-type]
    made.latched = latched
    made.num_computed = 8 if decodes else 0
    return made


def random_plan(dice: random.Random) -> Plan:
    """Up to four corrections of any kind at any site, or off."""
    parts = []
    for i in range(dice.randrange(5)):
        kind, site, gate = dice.choice((Set, Scale, Shift, Project)), dice.choice(SITES), dice.choice(GATES)
        made = correction(
            kind, layout(), site, gate=gate, strength=dice.choice((1.0, 0.5, -0.3)), seed=dice.randrange(4)
        )
        parts.append(type(made)(f"{i}", made.site, made.edit, made.gate, made.strength))
    return steered(*parts, detector=Detector(LogitLens(1), 0.5), strength=dice.choice((1.0, 0.7, 0.0)))


def expected(plan: Plan, phase: str, latched: bool, site: Site, h: Tensor) -> Tensor:
    """[W] of one token, one correction after the other."""
    delta = torch.zeros_like(h)
    for part in plan.corrections:
        is_open = part.gate.kind == "always" or (latched and part.gate.latch)
        if part.site == site and is_open and phase in part.gate.phases:
            delta = delta + plan.strength * part.strength * part.edit.delta(h[None])[0]
    return h + delta


def apply(taps: Taps, site: Site, h: Tensor) -> Tensor:
    return taps.apply(site.component, site.layer, h[None])[0]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_every_token_gets_what_its_plan_says(seed: int, deterministic: bool) -> None:
    """Decode rows with padding, then two chunks; the steps follow each other in one table."""
    dice, made = random.Random(seed), table(deterministic=deterministic)
    plans = [random_plan(dice) for _ in range(4)]
    for step in range(4):
        rows = [sequence(dice.choice(plans), latched=dice.random() < 0.5) for _ in range(dice.randrange(7))]
        chunks = [Chunk(sequence(dice.choice(plans), decodes=False), 0, dice.randrange(1, 5)) for _ in range(2)]
        num_rows = 8 if deterministic else len(rows)
        who = [(s.request.plan, "completion", s.latched) for s in rows]
        who += [(Plan(), "completion", False)] * (num_rows - len(rows))
        who += [(chunk.sequence.request.plan, "prompt", False) for chunk in chunks for _ in range(chunk.length)]
        taps = made.taps(Batch(tuple(rows), tuple(chunks)), num_rows, len(who))
        for site in SITES:
            noise = torch.Generator().manual_seed(step)
            h = torch.randn(len(who), layout().width(site.component), generator=noise)
            after = apply(taps, site, h)
            naive = torch.stack([expected(*one, site, row) for one, row in zip(who, h, strict=True)])
            assert torch.allclose(after, naive, atol=1e-5)
            alike = (naive == h).all(1)
            assert torch.equal(after[alike], h[alike])


def doses(taps: Taps, site: Site) -> Several[Dose]:
    return taps._doses.get((site.component, site.layer), ())


def test_one_dose_for_all_edits_of_a_kind_and_none_stacked_without_need() -> None:
    own = [steered(correction(Set, layout(), SITES[0], seed=i)) for i in range(6)]
    made = table()
    for plans, ndim in ((own, 2), (own[:1] * 6, 1)):
        (dose,) = doses(made.taps(Batch(tuple(map(sequence, plans)), ()), 6, 6), SITES[0])
        assert isinstance(dose.edit, Set) and dose.edit.target.ndim == ndim and dose.rows is None
    mixed = [*own[:2], steered(correction(Scale, layout(), SITES[0])), Plan()]
    two = doses(made.taps(Batch(tuple(map(sequence, mixed)), ()), 4, 4), SITES[0])
    assert [None if d.rows is None else d.rows.tolist() for d in two] == [[0, 1], [2]]


def test_a_change_of_one_row_rebuilds_only_what_it_is_in() -> None:
    gated = steered(correction(Scale, layout(), SITES[1], gate=LATCH), detector=Detector(LogitLens(1), 0.5))
    rows = (sequence(steered(correction(Set, layout(), SITES[0]))), sequence(gated), sequence(steered(tuned(layout()))))
    made = table()
    before = made.taps(Batch(rows, ()), 3, 3)
    assert not doses(before, SITES[1])
    rows[1].latched = True
    after = made.taps(Batch(rows, ()), 3, 3)
    assert doses(after, SITES[1])[0].rows.tolist() == [1]  # type: ignore[union-attr]
    assert doses(after, SITES[0])[0] is doses(before, SITES[0])[0]
    for linear, (dose,) in before.weights.items():
        assert after.weights[linear][0] is dose


def test_a_sum_follows_the_plans_own_order_whoever_came_first() -> None:
    """Floating-point sums depend on their order: a neighbour with the same parts the other way round, or with the
    last alone, changes no bit."""
    first, second = (correction(kind, layout(), SITES[2], strength=0.37) for kind in (Shift, Scale))
    third = correction(Project, layout(), SITES[2], strength=0.71)
    mine = sequence(steered(first, second, third))
    others = [steered(third, second, first), steered(third), steered(second, first), Plan()]
    h = torch.randn(1, layout().d_model, generator=torch.Generator().manual_seed(1))
    alone = apply(table(deterministic=True).taps(Batch((mine,), ()), 8, 8), SITES[2], h.expand(8, -1))[0]
    for other in others:
        taps = table(deterministic=True).taps(Batch((sequence(other), mine), ()), 8, 8)
        assert torch.equal(apply(taps, SITES[2], h.expand(8, -1))[1], alone)
