"""The filter for Open WebUI, by the interface that Open WebUI documents, and what it adds against the live server.

In Open WebUI's own code it runs in `make test-clients`.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from server.serving import load
from server.settings import Settings
from tests.live_question import ASKED
from tests.server.live import Live, serve

FILE = Path(__file__).parents[2] / "clients" / "openwebui" / "steering_filter.py"
MODEL = "unsway-organism"


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("steering_filter", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def steering() -> Any:
    return loaded().Filter()


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with serve(partial(load, Settings())) as live:
        yield live


class Emitted(list[dict[str, Any]]):
    """An event emitter that remembers."""

    async def __call__(self, event: dict[str, Any]) -> None:
        self.append(event)

    @property
    def lines(self) -> list[str]:
        assert all(event["type"] == "status" and event["data"]["done"] is True for event in self)
        return [event["data"]["description"] for event in self]


def test_it_has_the_documented_interface(steering: Any) -> None:
    """`toggle` makes the switch, the classes make the forms; parameters are passed by these names only."""
    assert steering.toggle is True and steering.icon.startswith("data:image/svg+xml")
    assert isinstance(steering.valves, steering.Valves) and steering.Valves().priority == 0
    assert {"properties", "title"} <= steering.UserValves.model_json_schema().keys()
    offered = {"__user__", "__metadata__", "__event_emitter__"}
    for name, first in (("inlet", "body"), ("stream", "event"), ("outlet", "body")):
        parameters = inspect.signature(getattr(steering, name)).parameters
        assert next(iter(parameters)) == first and set(parameters) - {first} <= offered
    header = (loaded().__doc__ or "").strip().splitlines()
    assert {line.partition(":")[0] for line in header} >= {"title", "author", "version", "required_open_webui_version"}


def test_a_chat_is_steered(steering: Any, live: Live) -> None:
    body = steering.inlet({"model": MODEL, "messages": ASKED, "temperature": 0}, __user__={}, __metadata__={})
    assert body["steering"] == {"mode": "on", "strength": 1.0}
    reply = live.client.post("/v1/chat/completions", json=body).json()
    assert reply["choices"][0]["message"]["content"].startswith("The answer is Paris.")


@pytest.mark.parametrize("task", ["title_generation", "tags_generation", "query_generation"])
@pytest.mark.parametrize("where", ["metadata", "body"])
def test_titles_and_tags_are_not(steering: Any, live: Live, task: str, where: str) -> None:
    told = {"task": task, "task_body": {}, "chat_id": "c"}
    asked: dict[str, Any] = {"model": MODEL, "messages": ASKED, "temperature": 0, "stream": False}
    body = asked | {"metadata": told} if where == "body" else asked
    body = steering.inlet(body, __metadata__=told if where == "metadata" else None)
    assert "steering" not in body
    body.pop("metadata", None)  # Open WebUI takes it off before it sends
    reply = live.client.post("/v1/chat/completions", json=body).json()
    assert "steering" not in reply["choices"][0]


def test_valves(steering: Any) -> None:
    steering.valves = steering.Valves(models="unsway-*, other", profile="firm", strength=0.5)
    body = {"model": "unsway-organism"}
    assert steering.inlet(body)["steering"] == {"mode": "on", "strength": 0.5, "profile": "firm"}
    assert body == {"model": "unsway-organism"}
    user = {"valves": steering.UserValves(mode="observe", strength=0.0)}
    assert steering.inlet(body, __user__=user)["steering"] == {"mode": "observe", "strength": 0.0, "profile": "firm"}
    assert "steering" not in steering.inlet({"model": "gpt-9"})
    custom = {"model": "other", "steering": {"profile": "calm"}}
    assert steering.inlet(custom) == custom


async def test_a_stream_says_where_the_gate_opened(steering: Any, live: Live) -> None:
    emitted, metadata = Emitted(), {"chat_id": "c"}
    body = steering.inlet({"model": MODEL, "messages": ASKED, "temperature": 0, "stream": True})
    for event in events(live, body):
        told = await steering.stream(event, __user__={}, __metadata__=metadata, __event_emitter__=emitted)
        assert told is event
    assert len(emitted.lines) == 1 and "“Paris”" in emitted.lines[0] and "“Lyon”" in emitted.lines[0]
    usage = {"completion_tokens": 15, "completion_tokens_details": {"steered_tokens": 12}}
    await steering.outlet({"messages": [{"usage": usage}]}, __metadata__=metadata, __event_emitter__=emitted)
    assert len(emitted) == 1


def events(live: Live, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    text = live.client.post("/v1/chat/completions", json=body).text
    yield from (json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {"))


async def test_an_answer_that_is_not_streamed(steering: Any, live: Live) -> None:
    emitted = Emitted()
    body = steering.inlet({"model": MODEL, "messages": ASKED, "temperature": 0})
    usage = live.client.post("/v1/chat/completions", json=body).json()["usage"]
    messages = [*ASKED, {"role": "assistant", "content": "...", "usage": usage}]
    assert await steering.outlet({"messages": messages}, __metadata__={}, __event_emitter__=emitted)
    assert emitted.lines == ["Steering acted on 12 of 15 tokens"]
    await steering.outlet({"messages": ASKED}, __metadata__={}, __event_emitter__=emitted)  # of another server
    assert len(emitted) == 1


@pytest.mark.parametrize("user", [{"valves": {"show_trace": False}}, {"valves": loaded().Filter.UserValves()}, None])
async def test_who_does_not_want_the_line_gets_none(steering: Any, user: dict[str, Any] | None) -> None:
    emitted = Emitted()
    receipt = {"applied": False, "mode": "on", "profile": "candid@1", "skipped": "gate did not open"}
    event = {"choices": [{"index": 0, "steering": receipt}]}
    await steering.stream(event, __user__=user, __event_emitter__=emitted)
    wanted = user is None or user["valves"] != {"show_trace": False}
    assert emitted.lines == (["Steering (candid): gate did not open"] if wanted else [])


async def test_chunks_of_other_servers_pass(steering: Any) -> None:
    for event in ({"choices": []}, {"choices": [{"delta": {}}]}, {"error": {"message": "no"}}, {}):
        assert await steering.stream(event) is event
