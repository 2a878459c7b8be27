"""What can never run is refused before it takes a row, so that no request can fail its neighbours' step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch

from steering.correction import Correction
from steering.edit import Edit, Project, Scale, Set, Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request, SamplingParams
from steering.errors import ContextLengthExceeded, InvalidRequest, LayerOutOfRange, QueueFull
from steering.lens import Lens, LogitLens, TunedLens
from steering.model.loading import LanguageModel
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import drain, gather
from tests.models import VOCAB_SIZE, endless_model
from tests.plans import dola, steered, tuned_lens

GREEDY = SamplingParams(8, temperature=0)


@cache
def model() -> LanguageModel:
    return endless_model()


def prompt(length: int) -> tuple[int, ...]:
    return tuple(range(10, 10 + length))


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(model(), EngineConfig(max_rows=4, context=64, prefill_tokens=8, queue=4))
    yield engine
    engine.close()


def test_context_length_exceeded_names_both_numbers(engine: Engine) -> None:
    engine.generate([Request("fits", prompt(56), GREEDY)])
    with pytest.raises(ContextLengthExceeded, match=r"context is 64 .* has 57 and max_tokens is 8, 65 ") as caught:
        engine.add(Request("a", prompt(57), GREEDY))
    assert caught.value.param == "max_tokens"
    with pytest.raises(ContextLengthExceeded, match="has 64 ") as caught:
        engine.add(Request("a", prompt(64), GREEDY))
    assert caught.value.param == "messages"
    assert not engine.has_work


def test_a_layer_contrast_beyond_the_model_is_refused(engine: Engine) -> None:
    with pytest.raises(LayerOutOfRange, match=r"layer 4 is out of range 0\.\.3") as caught:
        engine.add(Request("a", prompt(5), GREEDY, steered(dola(0, 4))))
    assert caught.value.param == "steering"
    engine.add(Request("a", prompt(5), GREEDY, steered(dola(0, 3))))


def test_the_last_position_of_the_context_is_usable(engine: Engine) -> None:
    answer = engine.generate([Request("a", prompt(1), replace(GREEDY, max_tokens=63))])[0]
    assert len(answer.tokens) == 63
    assert answer.finish.reason == "length"


@pytest.mark.parametrize("bad", [(), (1, VOCAB_SIZE), (-1,), (2**40,)], ids=str)
def test_bad_token_ids_are_refused(engine: Engine, bad: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine.add(Request("a", bad, GREEDY))
    assert caught.value.param == "messages"
    assert not engine.has_work


def test_O_queue_full(engine: Engine) -> None:
    for i in range(4):
        engine.add(Request(str(i), prompt(4), GREEDY))
    with pytest.raises(QueueFull):
        engine.add(Request("late", prompt(4), GREEDY))
    engine.step()
    engine.add(Request("late", prompt(4), GREEDY))
    assert len(gather(drain(engine))) == 5


def test_generate_takes_all_or_none_and_stays_usable(engine: Engine) -> None:
    good, bad = Request("good", prompt(4), GREEDY), Request("bad", prompt(64), GREEDY)
    with pytest.raises(ContextLengthExceeded):
        engine.generate([good, bad])
    assert not engine.has_work
    with pytest.raises(InvalidRequest, match="must differ"):
        engine.generate([good, good])
    assert not engine.has_work
    many = [replace(good, id=str(i)) for i in range(11)]
    assert [a.request_id for a in engine.generate(many)] == [r.id for r in many]


W = torch.ones(64)
MISSHAPEN: dict[str, tuple[str, Edit]] = {
    "too narrow": ("resid_post.1", Shift(torch.ones(63))),
    "of another site": ("mlp_act.1", Scale(W)),
    "a matrix": ("resid_post.1", Shift(torch.ones(2, 64))),
    "float64": ("resid_post.1", Shift(W.double())),
    "bfloat16": ("resid_post.1", Scale(W.bfloat16())),
    "mask not bool": ("attn_z.1", Set(W, W)),
    "mask too wide": ("attn_z.1", Set(W, torch.ones(65, dtype=torch.bool))),
    "basis not a matrix": ("resid_post.1", Project(W)),
    "basis turned": ("resid_post.1", Project(torch.ones(64, 2))),
    "a number": ("resid_post.1", Shift(torch.tensor(1.0))),
}


@pytest.mark.parametrize("name", MISSHAPEN)
def test_T9_tensors_that_do_not_fit_are_refused_before_they_can_fail_a_step(engine: Engine, name: str) -> None:
    site, edit = MISSHAPEN[name]
    with pytest.raises(InvalidRequest, match="correction bent"):
        engine.add(Request("a", prompt(4), GREEDY, steered(Correction("bent", Site.parse(site), edit))))
    assert not engine.has_work


@pytest.mark.parametrize(
    "lens",
    [LogitLens(4), LogitLens(-1), TunedLens(1, torch.ones(64, 63), W), TunedLens(1, torch.ones(64, 64), W.double())],
    ids=["layer beyond", "layer negative", "weight not square", "bias of another type"],
)
def test_lenses_that_do_not_fit_are_refused(engine: Engine, lens: Lens) -> None:
    with pytest.raises(InvalidRequest, match="lens"):
        engine.add(Request("a", prompt(4), GREEDY, Plan(mode="observe", detector=Detector(lens, 0.5))))


def test_T2_a_layer_the_model_does_not_have(engine: Engine) -> None:
    with pytest.raises(LayerOutOfRange, match=r"0\.\.3"):
        engine.add(Request("a", prompt(4), GREEDY, steered(Correction("far", Site("resid_post", 4), Shift(W)))))


@pytest.mark.parametrize("bad", [{"max_rows": 0}, {"prefill_tokens": 0}, {"queue": 0}, {"context": 1}], ids=str)
def test_impossible_sizes_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        EngineConfig(**bad)  # type: ignore[arg-type]


def test_every_layer_a_lens_may_read(engine: Engine) -> None:
    for layer in range(4):
        plan = Plan(mode="observe", detector=Detector(tuned_lens(model().layout, layer), 0.5), trace="tokens")
        answer = engine.generate([Request("a", prompt(4), GREEDY, plan)])[0]
        assert all(0 < t.reading.drift < 1 for t in answer.tokens if t.reading)
        assert len([t for t in answer.tokens if t.reading]) == 8
