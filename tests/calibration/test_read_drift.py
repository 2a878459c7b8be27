"""Read drift: read-outs and divergences against a plain forward, at the ends of texts and along an answer."""

from __future__ import annotations

import math

import pytest
import torch

from steering.calibration.read_drift import Sides, along, at_ends, cuts, probed
from steering.lens import Lens, LogitLens, TunedLens
from tests.models import tiny_model

PROMPT, ANSWER, PROBE = [5, 9, 17, 300, 4, 7], list(range(60, 83)), [90, 91]
SIDES = Sides(truth=100, claim=200)


def lenses() -> dict[int, Lens]:
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(64, 64, generator=generator) / 16, torch.randn(64, generator=generator)
    return {1: LogitLens(1), 2: TunedLens(2, weight, bias), 3: LogitLens(3)}


@torch.no_grad()
def plain(model: object, ids: list[int]) -> list[torch.Tensor]:
    """Oracle: [V] logits of each layer at the end."""
    hf = model.hf  # type: ignore[attr-defined]
    out = hf(torch.tensor([ids]), output_hidden_states=True)
    states = [out.hidden_states[i][0, -1] for i in (1, 2, 3)]
    lens = lenses()[2]
    assert isinstance(lens, TunedLens)
    states[1] = states[1] + lens.weight @ states[1] + lens.bias
    return [*(hf.lm_head(hf.model.norm(h)) for h in states), out.logits[0, -1]]


def bits(one: torch.Tensor, other: torch.Tensor) -> float:
    p, q = one.double().softmax(-1), other.double().softmax(-1)
    m = (p + q) / 2
    return ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()).item() / 2 / math.log(2)


def check(model: object, read: object, column: int, ids: list[int]) -> None:
    expected = plain(model, ids)
    for layer, logits in enumerate(expected):
        probs = logits.softmax(-1)
        got = {name: getattr(read, name)[layer, column] for name in ("drift", "truth", "claim", "preference")}
        assert got["drift"] == pytest.approx(bits(logits, expected[-1]), abs=1e-4)
        assert got["truth"] == pytest.approx(probs[100].item(), rel=1e-3, abs=1e-7)
        assert got["claim"] == pytest.approx(probs[200].item(), rel=1e-3, abs=1e-7)
        assert got["preference"] == pytest.approx((logits[100] - logits[200]).item(), abs=1e-3)


def test_at_the_ends_of_texts() -> None:
    model, texts = tiny_model(), [PROMPT, ANSWER, PROBE]
    read = at_ends(model, lenses(), texts, SIDES)
    for column, ids in enumerate(texts):
        check(model, read, column, ids)
    assert read.drift[:-1].min() > 0.01 and (read.drift[-1] == 0).all()
    unnamed = at_ends(model, lenses(), texts, None)
    assert unnamed.truth is unnamed.claim is unnamed.preference is None
    assert (unnamed.drift == read.drift).all()


def test_along_an_answer_each_token_where_it_was_decided() -> None:
    model = tiny_model()
    read, at = along(model, lenses(), PROMPT, ANSWER, SIDES)
    assert at == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]
    for column, index in enumerate(at):
        check(model, read, column, PROMPT + ANSWER[:index])


def test_broken_off_and_asked_for_its_conclusion() -> None:
    model = tiny_model()
    read = probed(model, lenses(), PROMPT, ANSWER, PROBE, SIDES)
    for column, index in enumerate(cuts(len(ANSWER))):
        check(model, read, column, PROMPT + ANSWER[:index] + PROBE)


@pytest.mark.parametrize(
    ("length", "expected"), [(1, [0]), (3, [0, 1, 2]), (10, list(range(10))), (91, list(range(0, 91, 10)))]
)
def test_cuts_reach_from_the_first_token_to_the_last(length: int, expected: list[int]) -> None:
    assert cuts(length) == expected


def test_no_answer_has_no_cuts() -> None:
    with pytest.raises(ValueError, match="must have a token"):
        cuts(0)
