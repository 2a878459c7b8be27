"""A budget for keys and values: as much as fits and no more, or a refusal that names what would."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
import torch

from steering.engine import kv_size
from steering.engine.engine import Engine, EngineConfig
from steering.engine.kv_setup import LEAST_CONTEXT
from steering.engine.kv_size import CONTEXT_BUCKET, KvSize, fit
from steering.engine.memory import KvMemory
from steering.engine.request import Request, SamplingParams, Token
from steering.engine.sequence import Sequence, Status
from steering.errors import ContextLengthExceeded, MemoryTooSmall
from steering.model.attention import SlotKV
from tests.engine.spy import Spy, drain, gather, kv_tensors
from tests.models import tiny_model

PER_TOKEN = 2 * 4 * 2 * 8 * 4
"""Bytes of the tiny model: K and V, layers, groups, head_dim, float32."""


def test_deterministic_mode_takes_all_at_the_start() -> None:
    engine = Engine(tiny_model(), EngineConfig(max_rows=5, context=96, deterministic=True))
    assert engine.kv_bytes == engine.kv.budget == 9 * 96 * PER_TOKEN and engine.kv == engine.kv_wanted
    engine.close()


def test_memory_follows_use_and_goes_back() -> None:
    engine = Engine(tiny_model(), EngineConfig(max_rows=8, prefix_cache=0))
    assert (engine.kv_bytes, engine.kv.budget) == (0, 8 * 512 * PER_TOKEN)
    engine.add(Request("short", (9, 8), SamplingParams(3, temperature=0, ignore_eos=True)))
    engine.step()
    assert engine.kv_bytes == 256 * PER_TOKEN
    engine.add(Request("long", (9,) * 300, SamplingParams(3, temperature=0, ignore_eos=True)))
    engine.step()
    assert engine.kv_bytes == (256 + 512) * PER_TOKEN
    for i in range(6):
        engine.add(Request(str(i), (9, 8), SamplingParams(3, temperature=0, ignore_eos=True)))
    engine.step()
    assert engine.kv_bytes > 2 * (256 + 512) * PER_TOKEN
    assert len(gather(drain(engine))) == 8
    assert engine.kv_bytes <= (256 + 512) * PER_TOKEN
    assert sum(cache.nbytes for cache in kv_tensors(engine)) == engine.kv_bytes
    engine.close()


@pytest.mark.parametrize("deterministic", [False, True])
def test_what_is_fitted_is_the_most_that_fits(deterministic: bool) -> None:
    dice, kinds = random.Random(3), set()
    for _ in range(500):
        wanted = KvSize(
            dice.randint(1, 40), dice.randint(1, 100) * 64, dice.choice((512, 3000)), deterministic, budget=0
        )
        wanted = replace(wanted, budget=int(wanted.least * dice.random() * 1.2))
        least = dice.choice((64, 256, wanted.context))
        try:
            size = fit(wanted, least_context=least)
        except MemoryTooSmall as error:
            kinds.add("refused")
            enough = int(re.findall(r"[\d,]+", str(error))[-1].replace(",", ""))
            assert enough > wanted.budget
            size = fit(replace(wanted, budget=enough), least_context=least)
            assert size.least == enough
            continue
        assert size.least <= wanted.budget
        if size == wanted:
            kinds.add("all")
        elif size.context == wanted.context:
            kinds.add("fewer rows")
            assert replace(size, rows=size.rows + 1).least > wanted.budget
        else:
            kinds.add("shorter context")
            assert size.rows == (min(wanted.rows, 8) if deterministic else wanted.rows) and size.context >= least
            assert replace(size, context=size.context + CONTEXT_BUCKET).least > wanted.budget
    assert kinds == {"refused", "all", "shorter context"} | ({"fewer rows"} if deterministic else set())


def test_an_engine_within_its_budget_serves_as_any_other() -> None:
    budget = 3 * 256 * PER_TOKEN
    engine = Engine(tiny_model(), EngineConfig(kv_memory=budget))
    spy = Spy(engine)
    assert (engine.config.max_rows, engine.context) == (16, 512)
    requests = [Request(str(i), (9, 10 + i), SamplingParams(4, temperature=0, ignore_eos=True)) for i in range(7)]
    answers = engine.generate(requests)
    engine.close()
    assert spy.most_rows == 3
    free = Engine(tiny_model(), EngineConfig(max_rows=7))
    assert answers == free.generate(requests)
    free.close()


def test_a_context_that_is_asked_for_is_never_shortened() -> None:
    budget = 320 * PER_TOKEN
    short = Engine(tiny_model(), EngineConfig(kv_memory=budget))
    assert (short.config.max_rows, short.context) == (16, 320)
    with pytest.raises(ContextLengthExceeded, match=f"{400 * PER_TOKEN:,} bytes.*{budget:,}"):
        short.add(Request("a", (9,) * 100, SamplingParams(300)))
    with pytest.raises(ContextLengthExceeded, match="context is 320 tokens"):
        short.add(Request("a", (9,) * 100, SamplingParams(600)))
    short.close()
    with pytest.raises(MemoryTooSmall, match=f"512 tokens.*{512 * PER_TOKEN:,}"):
        Engine(tiny_model(), EngineConfig(kv_memory=budget, context=512))


def test_a_budget_that_nothing_fits_in_names_the_smallest_that_works() -> None:
    least = LEAST_CONTEXT * PER_TOKEN
    with pytest.raises(MemoryTooSmall, match=f"{least:,}"):
        Engine(tiny_model(), EngineConfig(kv_memory=least - 1))
    engine = Engine(tiny_model(), EngineConfig(kv_memory=least))
    assert engine.context == LEAST_CONTEXT
    engine.close()


def test_without_a_budget_the_context_is_the_models_own() -> None:
    long = tiny_model(max_position_embeddings=9000)
    for config, context, budget in (
        (EngineConfig(), 9000, 16 * 4096),
        (EngineConfig(max_rows=1), 4096, 4096),
        (EngineConfig(max_rows=1, context=9000), 9000, 9000),
        (EngineConfig(max_rows=1, deterministic=True), 4096, 9 * 4096),
    ):
        engine = Engine(long, config)
        assert (engine.context, engine.kv.budget) == (context, budget * PER_TOKEN)
        engine.close()


def memory(rows: int, budget: int) -> KvMemory:
    """One layer, one group, one number a position: keys hold the owner, values the position. In tokens."""
    size = KvSize(rows, 32, 8, deterministic=False, budget=8 * budget)

    def make(slots: int, length: int) -> SlotKV:
        return SlotKV(slots=slots, shape=(length, 1, 1), dtype=torch.float32, devices=[torch.device("cpu")])

    return KvMemory(size, make, cache_limit=0)


def write(memory: KvMemory, sequence: Sequence, owner: int) -> None:
    kv, slot, position = memory.pool_of(sequence).kv, sequence.slot, sequence.num_computed
    kv.keys[0][slot, position], kv.values[0][slot, position] = owner, position


def holds(memory: KvMemory, sequence: Sequence, owner: int) -> bool:
    kv, slot, count = memory.pool_of(sequence).kv, sequence.slot, sequence.num_computed
    positions = torch.arange(count)[:, None, None]
    return bool((kv.keys[0][slot, :count] == owner).all() and (kv.values[0][slot, :count] == positions).all())


def test_pools_keep_what_is_written_whoever_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random lives against a pretended model; classes of 4, 8, 16 and 32 positions."""
    monkeypatch.setattr(kv_size, "SHORTEST", 4)
    seen = set[str]()
    for seed in range(60):
        dice = random.Random(seed)
        kv = memory(rows=6, budget=dice.choice((32, 70, 200)))
        live: dict[int, Sequence] = {}
        for owner in range(300):
            _one_step(dice, kv, live, owner, seen)
        for sequence in live.values():
            kv.release(sequence)
        kv.rest()
        assert kv.nbytes <= 8 * (4 + 8 + 16 + 32)
    assert seen == {"no place", "longer", "not longer", "moved rows", "shrunk"}


def _one_step(dice: random.Random, kv: KvMemory, live: dict[int, Sequence], owner: int, seen: set[str]) -> None:
    if len(live) < 6 and dice.random() < 0.5:
        request = Request("", (0,) * dice.choice((1, 2, 3, 7, 12)), SamplingParams(20))
        new = Sequence(request, detokenizer=None)  # type: ignore[arg-type]
        if kv.place(new):
            new.status, live[owner] = Status.RUNNING, new
        else:
            seen.add("no place")
    for name, sequence in list(live.items()):
        ended = len(sequence.token_ids) > 28 or dice.random() < 0.1
        if not ended and kv.is_outgrown(sequence):
            ended = not kv.lengthen(sequence)
            seen.add("not longer" if ended else "longer")
        if ended:
            kv.release(live.pop(name))
        elif sequence.num_to_prefill:
            write(kv, sequence, name)
            sequence.advance_prefill(1)
        else:
            write(kv, sequence, name)
            sequence.commit(Token(0), is_stop=False)
    before = kv.nbytes, [(s.pool, s.slot) for s in live.values()]
    kv.settle()
    seen |= {"shrunk"} if kv.nbytes < before[0] else set()
    seen |= {"moved rows"} if [(s.pool, s.slot) for s in live.values()] != before[1] else set()
    assert kv.nbytes <= kv.size.budget
    assert all(holds(kv, sequence, name) for name, sequence in live.items())
    for pool in kv.pools:
        standing = [s is not None and s.num_to_prefill == 0 for s in pool.residents]
        assert None not in pool.residents and standing == sorted(standing, reverse=True), "rows are not dense"
