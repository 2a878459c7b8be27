"""The compiled base: the same numbers as eager, whatever is corrected, and never a second compilation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from steering.edit import Scale, Set, Shift
from steering.engine import runner as runner_module
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.engine.runner import Runner
from steering.model import linears
from steering.plan import Detector, Plan
from steering.site import Site
from tests.models import tiny_model
from tests.plans import BOTH, Gate, correction, steered, tuned, tuned_lens

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch's own compiler warns of torch
GREEDY = SamplingParams(12, temperature=0, logprobs=0)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is measured, the compiled model and the packed products win."""
    from steering.model.compiled import CompiledBase

    monkeypatch.setattr(CompiledBase, "speedups", lambda *_: [2.0])
    monkeypatch.setattr(linears, "_times", lambda *_: (2.0, 1.0))


def plans(engine: Engine) -> list[Plan]:
    layout = engine.model.layout
    at = {kind: correction(kind, layout, Site(component, layer), gate=Gate(phases=BOTH)) for kind, component, layer in (
        (Set, "attn_z", 1), (Scale, "mlp_act", 1), (Shift, "resid_post", 0))}  # fmt: skip
    watched = [Detector(tuned_lens(layout, layer), 0.1) for layer in (0, 1)]
    return [
        Plan(),
        *(steered(one) for one in at.values()),
        *(steered(at[Set], detector=d, trace=True) for d in watched),
        steered(*at.values()),
        steered(tuned(layout)),
    ]


def answers(engine: Engine, of: list[Plan]) -> list[Completion]:
    requests = [
        Request(f"{i}", tuple(range(10 + i, 40 + 3 * i)), GREEDY, plan) for i, plan in enumerate([*of, *reversed(of)])
    ]
    return engine.generate(requests)


def check_equal(ours: list[Completion], theirs: list[Completion]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert [t.id for t in one.tokens] == [t.id for t in other.tokens]
        for a, b in zip(one.tokens, other.tokens, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
            assert (a.reading is None) == (b.reading is None)
            if a.reading and b.reading:
                assert a.reading.drift == pytest.approx(b.reading.drift, abs=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_compiled_and_packed_every_plan_comes_out_as_it_does_eager(family: str) -> None:
    eager = Engine(tiny_model(family), EngineConfig(max_rows=4, context=256))
    expected = answers(eager, plans(eager))
    assert len({c.text for c in expected}) > 4, "the plans must make a difference"
    eager.close()
    quick = Engine(tiny_model(family), EngineConfig(max_rows=4, context=256, compile=True, fast_linears=True))
    assert quick.speed.compiled
    assert quick.speed.num_packed > 0
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    check_equal(answers(quick, plans(quick)), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "nothing a request brings compiles again"
    quick.close()
    as_made = {frozenset(m.__dict__) for m in eager.model.hf.modules() if isinstance(m, nn.Linear)}
    assert {frozenset(m.__dict__) for m in quick.model.hf.modules() if isinstance(m, nn.Linear)} == as_made


@pytest.mark.slow
@pytest.mark.usefixtures("chosen")
def test_two_models_of_one_shape_keep_their_own_weights() -> None:
    engines = [Engine(tiny_model(seed=seed), EngineConfig(max_rows=2, context=128, compile=True)) for seed in (0, 1)]
    for seed, engine in enumerate(engines):
        plain = Engine(tiny_model(seed=seed), EngineConfig(max_rows=2, context=128))
        check_equal(answers(engine, [Plan()]), answers(plain, [Plan()]))


def test_a_compiler_that_fails_leaves_eager_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", fail)
    engine = Engine(tiny_model(), EngineConfig(max_rows=2, context=128, compile=True))
    assert not engine.speed.compiled
    assert "not compiled: RuntimeError: no C++ compiler" in caplog.text
    assert answers(engine, [Plan()])[0].tokens
    engine.close()


@pytest.mark.parametrize("deterministic", [True, False])
def test_what_was_not_asked_for_is_not_done(monkeypatch: pytest.MonkeyPatch, deterministic: bool) -> None:
    """Nor in deterministic mode what was."""

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Runner, "_compile", fail)
    monkeypatch.setattr(runner_module, "pack_linears", fail)
    config = EngineConfig(max_rows=2, context=128, deterministic=deterministic)
    if deterministic:
        config = replace(config, compile=True, fast_linears=True)
    engine = Engine(tiny_model(), config)
    assert not engine.speed.compiled
    assert {type(m) for m in engine.model.hf.modules() if isinstance(m, nn.Linear)} == {nn.Linear}
    engine.close()
