"""The backend in process against plain forwards of a stock model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

from steering.correction import Correction
from steering.edit import Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.evaluation.backend import Ask, Chat, Message, Read, Weigh
from steering.evaluation.core import Reply
from steering.evaluation.engine_backend import EngineBackend
from steering.model.chat import encode_chat
from steering.model.loading import LanguageModel
from steering.model.text import encode_text
from steering.plan import Plan
from steering.site import Site
from tests.models import tiny_hf, tiny_model
from tests.plans import steered

USER: tuple[Message, ...] = ({"role": "user", "content": "What is it?"},)
OPENED = (*USER, {"role": "assistant", "content": "Answer:"})
OPTIONS = (" (A)", " (B)")
VECTOR = torch.randn(64, generator=torch.Generator().manual_seed(3))
PUSH = steered(Correction("push", Site("resid_post", 1), Shift(VECTOR)))


@cache
def model() -> LanguageModel:
    return tiny_model()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(model(), EngineConfig(max_rows=4, context=96))
    yield engine
    engine.close()


def replies(backend: EngineBackend, *asks: Ask) -> list[Reply]:
    got = dict(backend.answer(asks))
    return [got[i] for i in range(len(asks))]


def logprobs(ids: list[int]) -> Tensor:
    """[T, V] by a stock model."""
    with torch.no_grad():
        logits: Tensor = tiny_hf()(torch.tensor([ids]), use_cache=False).logits[0]
    return logits.log_softmax(-1)


def test_chats_are_greedy_answers_and_continuations(engine: Engine) -> None:
    chats = [Chat(USER, 6), Chat(OPENED, 6), Chat(({"role": "user", "content": "a"},), 6)]
    for chat, reply in zip(chats, replies(EngineBackend(engine), *chats), strict=True):
        ids = encode_chat(model(), chat.messages)
        start = len(ids)
        for _ in range(6):
            ids.append(int(logprobs(ids)[-1].argmax()))
        assert reply.text == model().tokenizer.decode(ids[start:]) and reply.cut


def test_an_answer_is_as_long_as_fits(engine: Engine) -> None:
    long = Chat(({"role": "user", "content": "x" * 400},))
    first, second = replies(EngineBackend(engine), Chat(USER, 1024), long)
    assert first.error is None and first.cut
    assert second.error is not None and "context 96" in second.error


def test_draws_are_seeds(engine: Engine) -> None:
    chats = [Chat(USER, 8, temperature=1.0, draw=draw) for draw in (0, 0, 1)]
    one, same, other = replies(EngineBackend(engine), *chats)
    assert one.text == same.text != other.text


def test_weighs_whole_continuations(engine: Engine) -> None:
    for messages in (OPENED, USER):
        [reply] = replies(EngineBackend(engine), Weigh(messages, OPTIONS))
        base = encode_chat(model(), messages)
        for option, found in zip(OPTIONS, reply.logprobs, strict=True):
            last = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
            whole = [m for m in messages if m["role"] != "assistant"] + [
                {"role": "assistant", "content": last + option}
            ]
            ids = encode_chat(model(), whole)
            assert ids[: len(base)] == base, "the tokenizer joins nothing here"
            own = logprobs(ids)
            expected = sum(float(own[i - 1, ids[i]]) for i in range(len(base), len(ids)))
            assert found == pytest.approx(expected, abs=1e-4)


def test_reads_options_after_each_block(engine: Engine) -> None:
    [reply] = replies(EngineBackend(engine), Weigh(OPENED, OPTIONS, layers=True))
    both = [encode_chat(model(), (*USER, {"role": "assistant", "content": "Answer:" + o})) for o in OPTIONS]
    fork = next(i for i, (a, b) in enumerate(zip(*both, strict=True)) if a != b)
    hf = tiny_hf()
    seen: list[Tensor] = []
    handles = [b.register_forward_hook(lambda m, a, out: seen.append(out[0, -1])) for b in hf.model.layers]
    with torch.no_grad():
        hf(torch.tensor([both[0][:fork]]), use_cache=False)
        expected = [hf.lm_head(hf.model.norm(h))[[ids[fork] for ids in both]].tolist() for h in seen]
    for handle in handles:
        handle.remove()
    assert len(reply.layers) == 4
    for own, layer in zip(reply.layers, expected, strict=True):
        assert own == pytest.approx(layer, abs=1e-4)
    assert abs(reply.layers[-1][0] - reply.layers[0][0]) > 0.1, "layers differ"
    [steered_reply] = replies(EngineBackend(engine, PUSH), Weigh(OPENED, OPTIONS, layers=True))
    assert steered_reply.layers == () and steered_reply.logprobs != reply.logprobs


def test_an_option_that_begins_another(engine: Engine) -> None:
    [reply] = replies(EngineBackend(engine), Weigh(USER, ("A", "AAAA")))
    assert reply.error is None or "beginning of another" in reply.error
    [same] = replies(EngineBackend(engine), Weigh(USER, ("A", "A")))
    assert same.error == "one of the options is the beginning of another."


def test_texts_are_read_as_plain_forwards_would(engine: Engine) -> None:
    text = "The answer is Paris. I think it is Lyon."
    plain, short = replies(EngineBackend(engine), Read(text), Read(""))
    ids = encode_text(model(), text)[0]
    own = logprobs(ids)
    expected = [float(own[i - 1, ids[i]]) for i in range(1, len(ids))]
    assert plain.logprobs == pytest.approx(tuple(expected), abs=1e-4) and plain.divergences == ()
    assert short.error is not None and "less than two tokens" in short.error


def test_divergences_are_those_of_plain_forwards(engine: Engine) -> None:
    text = "The answer is Paris. I think it is Lyon."
    [reply] = replies(EngineBackend(engine, PUSH), Read(text))
    ids, hf = encode_text(model(), text)[0], tiny_hf()
    plain = logprobs(ids)
    handle = hf.model.layers[1].register_forward_hook(lambda m, a, out: out + VECTOR)
    with torch.no_grad():
        pushed = hf(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    handle.remove()
    expected = (plain.exp() * (plain - pushed)).sum(-1)[:-1].tolist()
    assert reply.divergences == pytest.approx(tuple(expected), rel=1e-3, abs=1e-5) and max(expected) > 0.01
    own = [float(pushed[i - 1, ids[i]]) for i in range(1, len(ids))]
    assert reply.logprobs == pytest.approx(tuple(own), abs=1e-4)


def test_identities_tell_plans_apart(engine: Engine) -> None:
    off, on = EngineBackend(engine).identity, EngineBackend(engine, PUSH).identity
    assert off["fingerprint"] == on["fingerprint"] and off["plan"] != on["plan"]
    assert off == EngineBackend(engine, Plan()).identity
