"""How answers end, and that text and tokens tell the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch

from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.model.loading import LanguageModel
from tests.engine.spy import ids
from tests.models import VOCAB_SIZE, endless_model

GREEDY = SamplingParams(30, temperature=0)
PROMPT = tuple(torch.randint(6, VOCAB_SIZE, (12,), generator=torch.Generator().manual_seed(8)).tolist())


@cache
def model() -> LanguageModel:
    return endless_model()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(model(), EngineConfig(max_rows=2, context=64))
    yield engine
    engine.close()


def answer(engine: Engine, sampling: SamplingParams) -> Completion:
    return engine.generate([Request("a", PROMPT, sampling)])[0]


def test_length(engine: Engine) -> None:
    full = answer(engine, GREEDY)
    assert full.finish.reason == "length"
    assert (full.finish.prompt_tokens, full.finish.completion_tokens, len(full.tokens)) == (12, 30, 30)
    assert full.text == model().tokenizer.decode(ids(full), skip_special_tokens=True)
    one = answer(engine, replace(GREEDY, max_tokens=1))
    assert ids(one) == ids(full)[:1]
    assert one.finish.completion_tokens == 1


def test_a_stop_token_ends_the_answer_and_is_no_part_of_it() -> None:
    plain = Engine(model(), EngineConfig(max_rows=2, context=64))
    full = ids(answer(plain, GREEDY))
    plain.close()
    stop = full[9]
    at = full.index(stop)
    engine = Engine(replace(model(), stop_ids=frozenset({stop})), EngineConfig(max_rows=2, context=64))
    stopped = answer(engine, GREEDY)
    engine.close()
    assert stopped.finish.reason == "stop"
    assert ids(stopped) == full[:at]
    assert stopped.finish.completion_tokens == stopped.finish.receipt.tokens == at
    assert engine.free_rows == 2


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(engine: Engine) -> None:
    full = answer(engine, GREEDY)
    text = full.text
    stop = next(text[i : i + 3] for i in range(8, len(text) - 3) if "\ufffd" not in text[i : i + 3])
    stopped = answer(engine, replace(GREEDY, stop=("never said", stop)))
    assert stopped.finish.reason == "stop"
    assert stopped.text == text[: text.index(stop)]
    assert ids(stopped) == ids(full)[: len(stopped.tokens)]
    assert len(stopped.tokens) < 30
    assert stopped.finish.completion_tokens == len(stopped.tokens)


def test_what_a_stop_string_held_back_comes_at_the_end(engine: Engine) -> None:
    full = answer(engine, GREEDY)
    assert answer(engine, replace(GREEDY, stop=(full.text[-2:] + "\0",))).text == full.text
