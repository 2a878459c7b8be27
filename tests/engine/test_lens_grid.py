"""What layers say at a prompt's positions: what a stock model's hidden states say through norm and unembedding."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.lens_query import Grid, LensQuery
from steering.engine.request import Completion, Request, SamplingParams
from steering.errors import InvalidRequest, LayerOutOfRange
from steering.lens import Lens, LogitLens, TunedLens
from steering.model.loading import LanguageModel
from tests.engine.spy import Spy, drain
from tests.models import VOCAB_SIZE, endless_model, tiny_hf
from tests.plans import tuned_lens

SCORE = SamplingParams(0, temperature=0, prompt_logprobs=0)
CANDIDATES = (7, 300, 7)


@cache
def model() -> LanguageModel:
    return endless_model()


@cache
def prompt(length: int) -> tuple[int, ...]:
    noise = torch.Generator().manual_seed(length)
    return tuple(torch.randint(6, VOCAB_SIZE, (length,), generator=noise).tolist())


def lenses() -> tuple[Lens, ...]:
    """Logit lenses at all layers, but a tuned one at 2."""
    L = model().layout.num_layers
    return tuple(tuned_lens(model().layout, 2) if layer == 2 else LogitLens(layer) for layer in range(L))


def query(first: int = 0, some: tuple[Lens, ...] | None = None) -> LensQuery:
    return LensQuery(lenses() if some is None else some, top=3, candidates=CANDIDATES, first=first)


def request(name: str, length: int, asked: LensQuery | None) -> Request:
    return Request(name, prompt(length), SCORE, lens=asked)


def serve(requests: list[Request], **config: int | bool) -> list[Completion]:
    engine = Engine(model(), EngineConfig(**{"max_rows": 4, "context": 192} | config))  # type: ignore[arg-type]
    answers = engine.generate(requests)
    engine.close()
    return answers


def expected(ids: tuple[int, ...], asked: LensQuery) -> Tensor:
    """[T, layers, V] log-probabilities, the output last, by a stock model."""
    hf = tiny_hf()
    with torch.no_grad():
        out = hf(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
        states = [(lens, out.hidden_states[lens.layer][0]) for lens in asked.lenses]
        tuned = [h + h @ a.weight.T + a.bias if isinstance(a, TunedLens) else h for a, h in states]
        logits = [hf.lm_head(hf.model.norm(h)) for h in tuned]
        return torch.stack([*logits, out.logits[0]], 1).log_softmax(-1)


def check(grid: Grid, ids: tuple[int, ...], asked: LensQuery) -> None:
    wanted = expected(ids, asked)[asked.first :]
    assert len(grid) == len(wanted)
    for said, rows in zip(grid, wanted, strict=True):
        assert len(said) == len(rows)
        for reading, row in zip(said, rows, strict=True):
            assert [i for i, _ in reading.top] == row.topk(3).indices.tolist()
            assert [p for _, p in reading.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
            assert reading.candidates == pytest.approx([row[i].item() for i in CANDIDATES], abs=1e-4)
            entropy = torch.distributions.Categorical(logits=row).entropy().item() / math.log(2)
            assert reading.entropy == pytest.approx(entropy, abs=1e-3)
            kl = torch.nn.functional.kl_div(row, rows[-1], log_target=True, reduction="sum").item() / math.log(2)
            assert reading.kl == pytest.approx(kl, abs=1e-3)
        assert said[-1].kl == 0.0 and said[0].kl > 0.01, "the first layer says what the output does"


@pytest.mark.parametrize("deterministic", [False, True], ids=["default", "deterministic"])
@pytest.mark.parametrize("prefill_tokens", [1, 16, 512])
def test_the_grid_is_that_of_a_stock_model(prefill_tokens: int, deterministic: bool) -> None:
    lengths, asked = (1, 2, 40), query()
    requests = [request(str(n), n, asked) for n in lengths]
    for answer, n in zip(
        serve(requests, prefill_tokens=prefill_tokens, deterministic=deterministic), lengths, strict=True
    ):
        check(answer.lens, prompt(n), asked)
        assert answer.tokens == () and answer.finish.reason == "length"


@pytest.mark.parametrize("first", [1, 20, 39])
def test_only_what_is_asked_for_is_read(first: int) -> None:
    some: tuple[Lens, ...] = (LogitLens(1), LogitLens(3))
    asked = query(first, some)
    (answer,) = serve([request("a", 40, asked)], prefill_tokens=16)
    check(answer.lens, prompt(40), asked)
    assert len(answer.lens) == 40 - first and len(answer.lens[0]) == 3


def test_the_output_alone() -> None:
    asked = query(some=())
    check_alone = serve([request("a", 17, asked)])[0].lens
    assert [len(said) for said in check_alone] == [1] * 17
    assert all(said[0].kl == 0.0 for said in check_alone)


def test_neighbours_get_what_they_get_alone() -> None:
    sampling = SamplingParams(12, temperature=0, logprobs=2)
    others = [Request("x", prompt(30), sampling), Request("y", prompt(9), sampling)]
    alone = [serve([other])[0] for other in others]
    *together, grid = serve([*others, request("a", 40, query())], prefill_tokens=16)
    assert [a.text for a in together] == [a.text for a in alone]
    assert all(a.lens == () for a in together)
    check(grid.lens, prompt(40), query())


def test_reading_takes_no_more_of_a_step_than_prompts_do() -> None:
    """16 prompt tokens: three positions of five read-outs; before `first` as many positions as ever."""
    engine = Engine(model(), EngineConfig(max_rows=4, context=192, prefill_tokens=16))
    spy = Spy(engine)
    asked = query(first=20)
    engine.generate([request("a", 40, asked), Request("b", prompt(30), SamplingParams(1))])
    engine.close()
    cost = {"a": len(asked.lenses) + 1, "b": 1}
    read = [(start, length) for step in spy.steps for name, start, length in step.chunks if name == "a"]
    assert read[:3] == [(0, 16), (16, 4), (20, 16 // cost["a"])]
    assert max(length for start, length in read if start >= 20) == 16 // cost["a"]
    assert any(len(step.chunks) == 2 for step in spy.steps), "the other prompt waits for all of it"
    for step in spy.steps:
        spent = sum(length * (1 if start < 20 else cost[name]) for name, start, length in step.chunks)
        assert spent < 16 + cost["a"]


def test_what_was_computed_before_is_read_all_the_same() -> None:
    engine = Engine(model(), EngineConfig(max_rows=4, context=192))
    engine.generate([Request("before", prompt(100), SamplingParams(1))])
    assert engine.prefix_cache.nbytes > 0
    (answer,) = engine.generate([request("a", 100, query())])
    engine.close()
    check(answer.lens, prompt(100), query())


def test_a_prompt_that_is_preempted_is_read_all_the_same() -> None:
    engine = Engine(model(), EngineConfig(max_rows=4, context=192, prefill_tokens=16))
    engine.add(request("a", 40, query()))
    events = [event for _ in range(4) for event in engine.step()]
    (sequence,) = engine._scheduler.running
    assert 0 < len(sequence.lens_readings) < 40 and not events
    engine._scheduler.preempt(sequence)
    (last,) = drain(engine)
    engine.close()
    check(last.lens, prompt(40), query())


def test_what_is_aborted_tells_nothing() -> None:
    engine = Engine(model(), EngineConfig(max_rows=4, context=192, prefill_tokens=16))
    engine.add(request("a", 40, query()))
    engine.step()
    engine.abort("a")
    (last,) = drain(engine)
    engine.close()
    assert last.finish and last.finish.reason == "abort" and last.lens == ()


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="one answer"):
        Request("a", prompt(5), SCORE, lens=query(), n=2)
    with pytest.raises(InvalidRequest, match="scored"):
        Request("a", prompt(5), SamplingParams(1), lens=query())
    L = model().layout.num_layers
    with pytest.raises(LayerOutOfRange, match=f"0..{L - 1}"):
        serve([request("a", 5, query(some=(LogitLens(L),)))])
    with pytest.raises(InvalidRequest, match="token ids"):
        serve([request("a", 5, LensQuery((), 1, (VOCAB_SIZE,)))])
