"""FAULTS X14, X7 and API.md: several choices and `compare`, whole and streamed, on both routes."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from server.serving import Served
from steering.engine.config import EngineConfig
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.server.fake_engine import FakeEngine
from tests.server.live import Live, serve
from tests.server.refusals import refused

ROUTES = ("chat", "complete")


def chunks_of(live: Live, ask: str, **fields: Any) -> list[dict[str, Any]]:
    """Of a stream that ended well."""
    reply = getattr(live, ask)(stream=True, **fields)
    assert reply.status_code == 200, reply.text
    frames = reply.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


def text_of(choice: dict[str, Any]) -> str:
    """Of a choice of either route, whole or of a chunk."""
    if "text" in choice:
        return choice["text"]  # type: ignore[no-any-return]
    return choice["message"]["content"] if "message" in choice else choice["delta"].get("content", "")  # type: ignore[no-any-return]


def streamed(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What a client makes of a stream, by index; each choice ends once, and nothing of it follows its end."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            so_far = choices.setdefault(choice["index"], {"text": "", "finish_reason": None, "steering": None})
            assert so_far["finish_reason"] is None
            so_far["text"] += text_of(choice)
            so_far["finish_reason"] = choice["finish_reason"]
            so_far["steering"] = choice.get("steering")
            assert (choice["finish_reason"] is None) <= ("steering" not in choice)
    return choices


@pytest.mark.parametrize("ask", ROUTES)
@pytest.mark.parametrize("fields", [{}, {"steering": True}, {"max_tokens": 3}, {"logprobs": 1}], ids=str)
def test_X14_choices_in_a_stream_are_those_of_the_whole(live: Live, ask: str, fields: dict[str, Any]) -> None:
    if "logprobs" in fields and ask == "chat":
        fields = {"logprobs": True, "top_logprobs": 1}
    whole = getattr(live, ask)(n=4, **fields).json()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    chunks = chunks_of(live, ask, n=4, stream_options={"include_usage": True}, **fields)
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    choices = streamed(chunks[:-1])
    assert choices.keys() == {0, 1, 2, 3}
    for choice in whole["choices"]:
        own = choices[choice["index"]]
        assert own["text"] == text_of(choice) and own["finish_reason"] == choice["finish_reason"]
        assert own["steering"] == choice.get("steering")
    order = [choice["index"] for chunk in chunks for choice in chunk["choices"]]
    assert order != sorted(order), "choices came one after the other"
    single = getattr(live, ask)(**fields).json()["usage"]
    assert whole["usage"]["prompt_tokens"] == single["prompt_tokens"]
    assert whole["usage"]["completion_tokens"] == 4 * single["completion_tokens"]


def test_X14_every_choice_of_a_chat_opens_with_its_role(live: Live) -> None:
    chunks = chunks_of(live, "chat", n=3)
    opened = [c["choices"][0]["index"] for c in chunks if c["choices"][0]["delta"].get("role") == "assistant"]
    assert sorted(opened) == [0, 1, 2]


@pytest.mark.parametrize("ask", ROUTES)
def test_compare_returns_two_choices_with_their_receipts(live: Live, ask: str) -> None:
    reply = getattr(live, ask)(steering={"mode": "compare"})
    on, off = reply.json()["choices"]
    assert (on["index"], off["index"]) == (0, 1)
    assert on["steering"]["mode"] == "on" and on["steering"]["applied"] is True
    profile = on["steering"]["profile"]
    assert off["steering"] == {
        "applied": False,
        "mode": "off",
        "profile": profile,
        "strength": 1.0,
        "fired_tokens": 0,
        "tokens": 7,
        "skipped": "plain answer to compare with",
        "prefill_shared": True,
    }
    assert on["steering"]["prefill_shared"] is True and reply.headers["x-steering-profile"] == profile
    choices = streamed(chunks_of(live, ask, steering={"mode": "compare"}))
    assert choices[0]["steering"] == on["steering"] and choices[1]["steering"] == off["steering"]


@pytest.mark.parametrize("ask", ROUTES)
def test_compare_of_a_plan_that_steers_the_prompt_says_that_nothing_is_shared(live: Live, ask: str) -> None:
    steering = {"mode": "compare", "profile": "firm", "phases": ["prompt", "completion"]}
    for choice in getattr(live, ask)(steering=steering).json()["choices"]:
        assert choice["steering"]["prefill_shared"] is False


@pytest.mark.parametrize("ask", ROUTES)
def test_S3_compare_takes_no_n(live: Live, ask: str) -> None:
    for steering, headers in (({"mode": "compare"}, {}), (None, {"X-Steering-Profile": "compare"})):
        refused(live, "invalid_value", "n", says="must be 1", ask=ask, n=2, steering=steering, headers=headers)
        assert len(getattr(live, ask)(n=1, steering=steering, headers=headers).json()["choices"]) == 2


@pytest.mark.parametrize("ask", ROUTES)
def test_X7_one_choice_that_fails_ends_its_request_and_no_other(live: Live, ask: str) -> None:
    """Seed 13 breaks at its fourth token: here the second choice."""
    with ThreadPoolExecutor(2) as pool:
        well = pool.submit(getattr(live, ask), stream=True, n=2)
        broken = getattr(live, ask)(seed=12, n=3, stream=True)
    assert broken.status_code == 200 and "[DONE]" not in broken.text
    assert json.loads(broken.text.strip().split("\n\n")[-1][6:])["error"]["code"] == "numerical_error"
    assert well.result().text.endswith("data: [DONE]\n\n")
    whole = getattr(live, ask)(seed=12, n=3)
    assert (whole.status_code, whole.json()["error"]["code"]) == (500, "numerical_error")
    live.wait_until(lambda: live.engine.num_open == 0 and live.served.engine.num_running == 0)


@pytest.mark.parametrize("ask", ROUTES)
def test_O1_a_full_queue_takes_no_choice(model: LanguageModel, store: PackStore, ask: str) -> None:
    engine = FakeEngine(model, EngineConfig(max_rows=1, queue=1), delay=0.02)
    served = Served(model, engine, store, None, 1)  # type: ignore[arg-type]
    with serve(lambda: served, capacity=64) as live, ThreadPoolExecutor(1) as pool:
        running = pool.submit(getattr(live, ask), seed=0, max_tokens=30, n=2)
        live.wait_until(lambda: engine.num_running == 2)
        reply = getattr(live, ask)(n=2)
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "queue_full")
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        assert running.result().status_code == 200


@pytest.mark.parametrize("ask", ROUTES)
def test_X1_leaving_aborts_every_choice(live: Live, ask: str) -> None:
    path = {"chat": "/v1/chat/completions", "complete": "/v1/completions"}[ask]
    body = {"model": "tiny", "seed": 0, "n": 4, "stream": True, "max_tokens": 400}
    body |= {"messages": [{"role": "user", "content": "Hi"}]} if ask == "chat" else {"prompt": ["Hi", "Ho"]}
    engine: FakeEngine = live.served.engine  # type: ignore[assignment]
    engine.delay = 0.01
    with live.client.stream("POST", path, json=body) as reply:
        next(reply.iter_lines())
        assert engine.num_running == (4 if ask == "chat" else 8)
    assert live.wait_until(lambda: engine.num_running == 0 and live.engine.num_open == 0) < 1  # of four seconds
    engine.delay = 0.0
