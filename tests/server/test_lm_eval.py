"""What `lm-eval --model local-completions` asks of `/v1/completions`, and how it reads the reply.

Request and reading are those of its `LocalCompletionsAPI` (0.4): token ids in batches, echoed with log-probabilities,
one token more than wanted, which it drops.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import pytest
import torch

from server.serving import Served
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.models import tiny_hf
from tests.server.live import Live, serve


@pytest.fixture(scope="module")
def real(model: LanguageModel, store: PackStore) -> Iterator[Live]:
    """A server with a real engine."""
    with serve(lambda: Served(model, Engine(model, EngineConfig(max_rows=4)), store, None, 1)) as running:
        yield running


def log_likelihoods(live: Live, contexts: list[list[int]], continuations: list[list[int]]) -> list[tuple[float, bool]]:
    """(log-probability, whether greedy) of each continuation, as the harness computes them."""
    body: dict[str, Any] = {
        "prompt": [c + e for c, e in zip(contexts, continuations, strict=True)],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    reply = live.complete(**body).raise_for_status().json()
    found = []
    for choice, context in zip(sorted(reply["choices"], key=itemgetter("index")), contexts, strict=True):
        own = choice["logprobs"]["token_logprobs"][len(context) : -1]
        tops = choice["logprobs"]["top_logprobs"][len(context) : -1]
        found.append((sum(own), all(value == max(top.values()) for value, top in zip(own, tops, strict=True))))
    return found


def test_log_likelihoods_are_those_of_a_stock_model(real: Live) -> None:
    noise = torch.Generator().manual_seed(5)
    contexts = [torch.randint(6, 384, (n,), generator=noise).tolist() for n in (4, 9, 1)]
    continuations = [torch.randint(6, 384, (n,), generator=noise).tolist() for n in (3, 1, 5)]
    with torch.no_grad():
        greedy = int(tiny_hf()(torch.tensor([contexts[1]]), use_cache=False).logits[0, -1].argmax())
    continuations[1] = [greedy]
    found = log_likelihoods(real, contexts, continuations)
    for context, continuation, (total, is_greedy) in zip(contexts, continuations, found, strict=True):
        ids = context + continuation
        with torch.no_grad():
            logprobs = tiny_hf()(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
        expected = sum(float(logprobs[i - 1, ids[i]]) for i in range(len(context), len(ids)))
        assert total == pytest.approx(expected, abs=1e-3)
        assert is_greedy == all(int(logprobs[i - 1].argmax()) == ids[i] for i in range(len(context), len(ids)))
    assert [greedy for _, greedy in found].count(True) >= 1


def test_generation_until_a_stop(real: Live) -> None:
    body = {"prompt": ["What is the capital?", "I think"], "max_tokens": 12, "temperature": 0, "seed": 1234}
    whole = real.complete(**body).raise_for_status().json()["choices"]
    stop = whole[0]["text"][3]
    cut = real.complete(**body, stop=[stop]).raise_for_status().json()["choices"]
    assert [choice["text"] for choice in sorted(cut, key=itemgetter("index"))] == [
        choice["text"].partition(stop)[0] for choice in whole
    ]


def test_the_profile_is_chosen_by_the_models_name(real: Live) -> None:
    """The harness sends no fields of ours: `--model_args model=tiny+firm` is how it steers."""
    body: dict[str, Any] = {"prompt": "What is", "max_tokens": 8, "temperature": 0}
    plain, steered = (real.complete(model=name, **body).raise_for_status().json() for name in ("tiny", "tiny+firm"))
    assert plain["choices"][0]["text"] != steered["choices"][0]["text"]
