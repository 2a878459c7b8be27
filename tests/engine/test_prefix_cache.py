"""What was computed before is not computed again, and nobody can tell but by the counters."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from itertools import permutations

import pytest
import torch

from steering.correction import Correction
from steering.edit import Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.prefix_cache import BLOCK, PrefixCache, chain
from steering.engine.request import Completion, Request, SamplingParams
from steering.errors import NumericalError
from steering.gate import Gate
from steering.plan import Plan
from steering.site import Site
from tests.engine.spy import drain, gather, ids, logprobs
from tests.engine.test_faults import model, overflowing, prompt
from tests.plans import BOTH, COMPLETION, PROMPT, steered, tuned

GREEDY = SamplingParams(6, temperature=0, logprobs=0)
LONG = 150


def whole(length: int) -> int:
    """Positions of whole blocks."""
    return length // BLOCK * BLOCK


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(model(), EngineConfig(max_rows=3, prefill_tokens=50, prefix_cache=2**20))
    yield engine
    engine.close()


@cache
def plans() -> dict[str, Plan]:
    layout = model().layout

    def push(phases: frozenset, seed: int) -> Plan:  # type: ignore[type-arg]
        noise = torch.randn(64, generator=torch.Generator().manual_seed(seed))
        return steered(Correction("push", Site("resid_post", 1), Shift(noise), Gate(phases=phases)))

    return {
        "none": Plan(),
        "completion": push(COMPLETION, 1),
        "prompt": push(PROMPT, 2),
        "both": push(BOTH, 3),
        "other": push(BOTH, 4),
        "weights": steered(tuned(layout, layers=(1,))),
    }


def uncached(request: Request) -> Completion:
    engine = Engine(model(), EngineConfig(max_rows=3, prefill_tokens=50, prefix_cache=0))
    answer = engine.generate([request])[0]
    engine.close()
    assert engine.prefix_cache.hits == engine.prefix_cache.nbytes == 0
    return answer


def check(answer: Completion, request: Request) -> None:
    expected = uncached(request)
    assert (ids(answer), answer.finish) == (ids(expected), expected.finish)
    assert logprobs(answer) == pytest.approx(logprobs(expected), abs=1e-4)


@pytest.mark.parametrize("order", list(permutations(("completion", "both", "none"))), ids="-".join)
def test_C6_one_prompt_under_several_plans_in_any_order(order: tuple[str, ...]) -> None:
    engine = Engine(model(), EngineConfig(max_rows=3, prefill_tokens=50))
    for name in (*order, *order):
        request = Request("a", prompt(LONG), GREEDY, plans()[name])
        (answer,) = engine.generate([request])
        check(answer, request)
    engine.close()
    assert engine.prefix_cache.hits == 4 * whole(LONG - 1), "none and completion share, both has its own"
    assert engine.prompt_tokens_computed == 6 * (LONG - 1) - 4 * whole(LONG - 1)


def test_every_plan_finds_its_own(engine: Engine) -> None:
    for name, plan in [*plans().items()] * 2:
        request = Request(name, prompt(LONG), GREEDY, plan)
        check(engine.generate([request])[0], request)
    assert engine.prefix_cache.hits == 7 * whole(LONG - 1), "completion finds at once what none left"


def test_a_prompt_that_goes_another_way_takes_what_is_common(engine: Engine) -> None:
    engine.generate([Request("a", prompt(LONG), GREEDY)])
    for common in (140, 128, 127, 64, 63, 16, 15):
        before = engine.prefix_cache.hits
        request = Request("b", (*prompt(LONG)[:common], *prompt(60, common)), GREEDY)
        check(engine.generate([request])[0], request)
        assert engine.prefix_cache.hits - before == whole(common)


def test_the_last_token_of_a_prompt_is_never_taken(engine: Engine) -> None:
    """It is the first decode step: its logits are wanted."""
    request = Request("a", prompt(128), GREEDY)
    engine.generate([request])
    check(engine.generate([request])[0], request)
    assert engine.prefix_cache.hits == 128 - BLOCK


@pytest.mark.parametrize(("name", "kept"), [("none", 210), ("both", 210), ("weights", 210), ("completion", 150)])
def test_the_next_turn_of_a_chat_finds_the_answer_too(engine: Engine, name: str, kept: int) -> None:
    """Where the answer was generated as the prompt is computed; a completion plan's own positions are nobody's."""
    plan, long = plans()[name], SamplingParams(60, temperature=0, logprobs=0)
    (first,) = engine.generate([Request("a", prompt(LONG), long, plan)])
    before = engine.prefix_cache.hits
    turn = Request("b", (*prompt(LONG), *ids(first), *prompt(9)), GREEDY, plan)
    (second,) = engine.generate([turn])
    check(second, turn)
    assert engine.prefix_cache.hits - before == whole(kept - 1)
    plain = Request("c", turn.prompt_ids, GREEDY)
    check(engine.generate([plain])[0], plain)


def test_T16_nothing_of_a_broken_row_is_kept(engine: Engine) -> None:
    for i, phases in enumerate((PROMPT, COMPLETION, BOTH)):
        (broken,) = engine.generate([Request(str(i), prompt(LONG, i), GREEDY, overflowing(phases))])
        assert isinstance(broken.finish.error, NumericalError)
    held = [layer for block in engine._memory.cache._blocks.values() for layer in block.tensors]
    assert all(layer.isfinite().all() for layer in held)
    assert engine.prefix_cache.nbytes == whole(LONG - 1) * engine.kv.bytes_per_token, (
        "what was sound before its completion"
    )


def test_blocks_that_are_not_finite_are_refused_whatever_the_row_says(engine: Engine) -> None:
    engine.add(Request("a", prompt(LONG), GREEDY))
    engine.step()
    (sequence,) = engine._under_way["a"]
    with torch.inference_mode():
        engine._memory.pool_of(sequence).kv.keys[1][sequence.slot, 49] = torch.inf  # the last one so far
    engine.step()
    assert engine.prefix_cache.nbytes == whole(50) * engine.kv.bytes_per_token
    drain(engine)


def test_scored_prompts_are_computed(engine: Engine) -> None:
    request = Request("a", prompt(LONG), SamplingParams(4, temperature=0, prompt_logprobs=1))
    engine.generate([Request("b", prompt(LONG), GREEDY)])
    (answer,) = engine.generate([request])
    assert len(answer.prompt) == LONG and answer.prompt == uncached(request).prompt
    assert engine.prefix_cache.hits == 0 and engine.prompt_tokens_computed == 2 * (LONG - 1)


def test_what_is_aborted_leaves_what_was_whole(engine: Engine) -> None:
    request = Request("a", prompt(LONG), GREEDY)
    engine.add(request)
    engine.step()
    engine.step()
    engine.abort("a")
    drain(engine)
    check(engine.generate([request])[0], request)
    assert engine.prefix_cache.hits == whole(100)  # of two steps


def test_deterministic_mode_keeps_none() -> None:
    engine = Engine(model(), EngineConfig(max_rows=2, context=256, deterministic=True))
    for _ in range(2):
        engine.generate([Request("a", prompt(LONG), GREEDY)])
    engine.close()
    assert engine.prefix_cache.queries == engine.prefix_cache.nbytes == 0


def test_rows_come_before_what_is_kept() -> None:
    """Memory of one row of 512: the cache gives way to it, and takes its place again."""
    token = model().layout.kv_bytes_per_token(model().dtype)
    engine = Engine(model(), EngineConfig(max_rows=2, kv_memory=512 * token, prefix_cache=512 * token))
    for length in (200, 200, 400, 200, 200):
        request = Request("a", prompt(length), GREEDY)
        check(engine.generate([request])[0], request)
        assert engine.kv_bytes <= engine.kv.budget
    engine.close()
    assert engine.prefix_cache.evictions > 0 and engine.prefix_cache.hits > 0


def test_the_cache_against_a_naive_one() -> None:
    """Whatever is found is what was put there under the same ids and digest; no block outlives its parent."""
    dice, cache_ = random.Random(1), PrefixCache(6 * 10, 10)
    truth: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
    found = 0
    for _ in range(600):
        digest = dice.choice(("", "x"))
        whole = tuple(
            i // BLOCK * 10 + dice.choice((0, 1)) * (i % BLOCK == 0) for i in range(BLOCK * dice.randint(1, 5))
        )
        hashes = chain(digest, whole)
        starts = [whole[: (i + 1) * BLOCK] for i in range(len(hashes))]
        for start, block in zip(starts, cache_.find(hashes, whole), strict=False):
            assert block[0] is truth[digest, start]
            found += 1
        room = dice.choice((0, 10, 1000))

        def read(i: int, starts: list[tuple[int, ...]] = starts, digest: str = digest) -> tuple[torch.Tensor, ...]:
            return (truth.setdefault((digest, starts[i]), torch.empty(0)),)

        before = cache_.nbytes
        cache_.add(hashes, whole, read, room)
        assert cache_.nbytes <= min(60, before + room)
        for key in cache_._blocks:
            assert key in {h for d, ids_ in truth for h in chain(d, ids_)}
    assert found > 200 and cache_.stats.evictions > 50
    assert cache_.stats.hits == found * BLOCK < cache_.stats.queries


def test_equal_hashes_of_other_ids_are_no_hit() -> None:
    cache_ = PrefixCache(100, 10)
    whole = tuple(range(BLOCK))
    cache_.add(chain("", whole), whole, lambda i: (torch.zeros(1),), 100)
    assert cache_.find(chain("", whole), whole)
    assert not cache_.find(chain("", whole), whole[::-1])
    assert not cache_.find(chain("other", whole), whole)


def test_answers_that_run_beside_each_other_and_a_cache_agree(engine: Engine) -> None:
    requests = [
        Request(f"{name}{i}", prompt(LONG)[: 70 + 30 * i] + prompt(20, i), GREEDY, plan)
        for i in range(3)
        for name, plan in plans().items()
    ]
    for request in requests:
        engine.add(request)
    done = gather(drain(engine))
    for request in requests:
        check(done[request.id], request)
    assert engine.prefix_cache.hits > 0
