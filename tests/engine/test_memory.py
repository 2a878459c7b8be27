"""A budget for keys and values: as much as fits and no more, or a refusal that names what would."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from steering.engine.engine import LEAST_CONTEXT, Engine, EngineConfig
from steering.engine.kv_size import CONTEXT_BUCKET, KvSize, fit
from steering.engine.request import Request, SamplingParams
from steering.errors import MemoryTooSmall
from tests.models import tiny_model

PER_TOKEN = 2 * 4 * 2 * 8 * 4
"""Bytes of the tiny model: K and V, layers, groups, head_dim, float32."""


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_size_is_that_of_the_tensors(deterministic: bool) -> None:
    engine = Engine(tiny_model(), EngineConfig(max_rows=5, context=96, deterministic=deterministic))
    assert engine.kv.nbytes == engine._runner.kv.nbytes == (9 if deterministic else 6) * 96 * PER_TOKEN
    assert engine.kv.bytes_per_token == PER_TOKEN and engine.kv == engine.kv_wanted
    engine.close()


def test_what_is_fitted_is_the_most_that_fits() -> None:
    dice, kinds = random.Random(3), set()
    for _ in range(500):
        wanted = KvSize(dice.randint(1, 40), dice.randint(1, 100) * 64, dice.choice((512, 3000)), dice.random() < 0.5)
        budget, least = int(wanted.nbytes * dice.random() * 1.2), dice.choice((64, 256, wanted.context))
        fewest = min(wanted.rows, 8) if wanted.deterministic else 1
        try:
            size = fit(wanted, budget, least_context=least)
        except MemoryTooSmall as error:
            kinds.add("refused")
            enough = int(re.findall(r"[\d,]+", str(error))[-1].replace(",", ""))
            assert enough > budget
            size = fit(wanted, enough, least_context=least)
            assert size.nbytes == enough and size.rows == fewest
            continue
        assert size.nbytes <= budget
        if size == wanted:
            kinds.add("all")
        elif size.context == wanted.context:
            kinds.add("fewer rows")
            assert replace(size, rows=size.rows + 1).nbytes > budget
        else:
            kinds.add("shorter context")
            assert size.rows == fewest and size.context >= least
            assert replace(size, context=size.context + CONTEXT_BUCKET).nbytes > budget
    assert kinds == {"refused", "all", "fewer rows", "shorter context"}


def test_an_engine_within_its_budget_serves_as_any_other() -> None:
    budget = 4 * 512 * PER_TOKEN
    engine = Engine(tiny_model(), EngineConfig(kv_memory=budget))
    assert (engine.config.max_rows, engine.free_rows, engine.context) == (3, 3, 512)
    assert engine._runner.kv.nbytes == budget and engine.kv_wanted.rows == 16
    answers = engine.generate([Request(str(i), (9, 10 + i), SamplingParams(4, temperature=0)) for i in range(7)])
    engine.close()
    free = Engine(tiny_model(), EngineConfig(max_rows=7))
    assert answers == free.generate([Request(str(i), (9, 10 + i), SamplingParams(4, temperature=0)) for i in range(7)])
    free.close()


def test_a_context_that_is_asked_for_is_never_shortened() -> None:
    budget = 2 * 320 * PER_TOKEN
    short = Engine(tiny_model(), EngineConfig(kv_memory=budget))
    assert (short.config.max_rows, short.context) == (1, 320)
    short.close()
    with pytest.raises(MemoryTooSmall, match=f"512 tokens.*{2 * 512 * PER_TOKEN:,}"):
        Engine(tiny_model(), EngineConfig(kv_memory=budget, context=512))


def test_a_budget_that_nothing_fits_in_names_the_smallest_that_works() -> None:
    least = 2 * LEAST_CONTEXT * PER_TOKEN
    with pytest.raises(MemoryTooSmall, match=f"{least:,}"):
        Engine(tiny_model(), EngineConfig(kv_memory=least - 1))
    engine = Engine(tiny_model(), EngineConfig(kv_memory=least))
    assert (engine.config.max_rows, engine.context) == (1, LEAST_CONTEXT)
    engine.close()
