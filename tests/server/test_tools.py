"""Tools in chats: what an engine says is taken apart, whole and streamed; a random model that has to call, calls."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from server.serving import Served
from server.settings import Settings
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.grammar.check import valid
from tests.models import tiny_model
from tests.server.fake_engine import FakeEngine
from tests.server.live import Live, serve
from tests.server.packs import save_packs
from tests.tool_models import tool_model

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "東京"]}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city"],
    "additionalProperties": False,
}


def function(name: str, parameters: object = None, **fields: object) -> dict[str, Any]:
    told = {"name": name, **fields} | ({} if parameters is None else {"parameters": parameters})
    return {"type": "function", "function": told}


TOOLS = [function("weather", CITY, description="The weather of a city."), function("now")]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
MISTRAL_CALL = '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}}]'
SAYS = {
    1: f"Let me see.\n{CALL}",
    2: f'{CALL}\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>',
    3: '<tool_call>\n{"name": "weather", "arguments": {"city": }}\n</tool_call>',
    4: "<think>\nIt is Paris.\n</think>\n\nThe answer.",
    5: f"<think>\nhm\n</think>\n\n{CALL}",
}
SHAPES = ("qwen", "llama", "mistral")


def named(shape: str) -> LanguageModel:
    return replace(tool_model(shape), name="tiny")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PackStore:
    folder = tmp_path_factory.mktemp("packs")
    save_packs(folder, named("qwen"), tiny_model(seed=1))
    return PackStore(folder, named("qwen"))


@pytest.fixture(scope="module")
def scripted(store: PackStore) -> Iterator[Live]:
    engine = FakeEngine(named("qwen"), EngineConfig(max_rows=4), says=SAYS)
    served = Served(engine.model, engine, store, "candid", 1)  # type: ignore[arg-type]
    with serve(lambda: served) as live:
        yield live


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    model = named("mistral")
    engine = FakeEngine(model, EngineConfig(max_rows=4), says={1: MISTRAL_CALL})
    served = Served(model, engine, PackStore(tmp_path_factory.mktemp("none"), model), None, 1)  # type: ignore[arg-type]
    with serve(lambda: served) as live:
        yield live


@pytest.fixture(scope="module", params=SHAPES)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    model, folder = named(request.param), tmp_path_factory.mktemp("packs")
    save_packs(folder, model, tiny_model(seed=1))
    engine = Engine(model, EngineConfig(max_rows=8))
    served = Served(model, engine, PackStore(folder, model), "candid", 1)
    with serve(lambda: served, Settings(threads=1)) as live:
        yield live


def whole(live: Live, **fields: Any) -> dict[str, Any]:
    reply = live.chat(**{"tools": TOOLS, **fields})
    assert reply.status_code == 200, reply.text
    choice: dict[str, Any] = reply.json()["choices"][0]
    return choice


def chunks(live: Live, **fields: Any) -> list[dict[str, Any]]:
    lines = live.chat(**{"tools": TOOLS, "stream": True, **fields}).text.split("\n")
    assert "data: [DONE]" in lines[-3:]
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def streamed(live: Live, **fields: Any) -> dict[str, Any]:
    """The first choice of a stream, put together."""
    message: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    calls: list[dict[str, Any]] = []
    logprobs, reason = [], None
    for choice in (c for chunk in chunks(live, **fields) for c in chunk["choices"] if c["index"] == 0):
        delta, reason = choice["delta"], choice["finish_reason"] or reason
        message["content"] += delta.get("content", "")
        logprobs += (choice["logprobs"] or {"content": []})["content"]
        if "reasoning_content" in delta:
            message["reasoning_content"] = message.get("reasoning_content", "") + delta["reasoning_content"]
        for piece in delta.get("tool_calls", []):
            if piece["index"] == len(calls):
                assert piece["type"] == "function" and piece["function"]["arguments"] == ""
                calls.append({"id": piece["id"], "type": "function", "function": dict(piece["function"])})
            else:
                assert piece.keys() == {"index", "function"} and piece["function"].keys() == {"arguments"}
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    if calls:
        message |= {"tool_calls": calls, "content": message["content"] or None}
    return {"message": message, "finish_reason": reason, "logprobs": {"content": logprobs, "refusal": None}}


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "tool_calls": [call["function"] for call in message.get("tool_calls", [])]}


def alike(live: Live, **fields: Any) -> dict[str, Any]:
    """The choice, which a stream tells as well."""
    choice, pieces = whole(live, **fields), streamed(live, **fields)
    assert without_ids(pieces["message"]) == without_ids(choice["message"])
    assert pieces["finish_reason"] == choice["finish_reason"]
    if choice["logprobs"] is not None:
        told, whole_told = pieces["logprobs"]["content"], choice["logprobs"]["content"]
        assert [t["token"] for t in told] == [t["token"] for t in whole_told]
        assert [t["logprob"] for t in told] == pytest.approx([t["logprob"] for t in whole_told], abs=1e-4)
        assert [t.get("steering", {}).keys() for t in told] == [t.get("steering", {}).keys() for t in whole_told]
    return choice


def test_text_and_a_call(scripted: Live) -> None:
    choice = alike(scripted, seed=1)
    (call,) = choice["message"]["tool_calls"]
    assert re.fullmatch(r"call_[0-9a-f]{24}", call["id"]) and call["type"] == "function"
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert choice["message"]["content"] == "Let me see." and choice["finish_reason"] == "tool_calls"


def test_several_calls_and_no_text(scripted: Live) -> None:
    message = alike(scripted, seed=2)["message"]
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather", "now"]
    assert message["content"] is None and len({call["id"] for call in message["tool_calls"]}) == 2


def test_a_malformed_call_is_content(scripted: Live) -> None:
    choice = alike(scripted, seed=3)
    assert choice["message"]["content"] == SAYS[3] and choice["finish_reason"] == "stop"
    assert "tool_calls" not in choice["message"]


def test_what_was_thought_stands_apart(scripted: Live) -> None:
    message = alike(scripted, seed=4, tools=None)["message"]
    assert (message["reasoning_content"], message["content"]) == ("It is Paris.", "The answer.")
    message = alike(scripted, seed=5)["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", None)


@pytest.mark.parametrize("tools", [{"tools": None}, {"tool_choice": "none"}, {"tools": []}], ids=str)
def test_without_tools_a_call_is_text(scripted: Live, tools: dict[str, Any]) -> None:
    choice = alike(scripted, seed=1, **tools)
    assert choice["message"]["content"] == SAYS[1] and choice["finish_reason"] == "stop"


def test_a_call_that_is_cut_is_content(scripted: Live) -> None:
    choice = alike(scripted, seed=1, max_tokens=20)
    assert choice["finish_reason"] == "length" and "<tool_call>" in choice["message"]["content"]


def test_traces_and_logprobs_have_every_token(scripted: Live) -> None:
    fields = {"seed": 1, "steering": {"profile": "candid", "trace": "tokens"}, "logprobs": True, "top_logprobs": 1}
    choice = alike(scripted, **fields)
    told = choice["logprobs"]["content"]
    assert "".join(t["token"] for t in told) == SAYS[1] and told[1]["steering"]["fired"]
    assert choice["steering"]["fired_tokens"] == 1
    last = [c for chunk in chunks(scripted, **fields) for c in chunk["choices"]][-1]
    assert last["steering"] == choice["steering"]


def test_compared_answers_are_both_read(scripted: Live) -> None:
    steered, plain = scripted.chat(seed=1, tools=TOOLS, steering={"mode": "compare"}).json()["choices"]
    assert without_ids(steered["message"]) == without_ids(plain["message"]) and steered["message"]["tool_calls"]
    assert steered["steering"]["applied"] and not plain["steering"]["applied"]


def test_choices_have_calls_of_their_own(scripted: Live) -> None:
    reply = scripted.chat(seed=1, n=3, tools=TOOLS).json()["choices"]
    assert [len(c["message"].get("tool_calls", [])) for c in reply] == [1, 2, 0]
    seen = [c["index"] for chunk in chunks(scripted, seed=1, n=3) for c in chunk["choices"]]
    assert {0, 1, 2} == set(seen)


def test_a_stop_string_within_a_call_ends_it(scripted: Live) -> None:
    choice = alike(scripted, seed=1, stop=["Paris"])
    assert choice["finish_reason"] == "stop" and choice["message"]["content"].endswith('{"city": "')


def test_a_conversation_with_calls_goes_on(scripted: Live) -> None:
    first = whole(scripted, seed=1)["message"]
    answer = {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "rain"}
    turns = [{"role": "user", "content": "Weather?"}, first, answer]
    echoed = scripted.chat(messages=turns, tools=TOOLS, seed=77).json()["choices"][0]["message"]  # the whole prompt
    assert "<tool_response>\nrain\n</tool_response>" in echoed["content"]
    assert echoed["tool_calls"][0]["function"] == first["tool_calls"][0]["function"]


def test_ids_of_mistrals_calls_are_as_its_template_wants_them(mistral: Live) -> None:
    message = alike(mistral, seed=1)["message"]
    assert re.fullmatch(r"[0-9A-Za-z]{9}", message["tool_calls"][0]["id"])
    turns = [
        {"role": "user", "content": "Weather?"},
        {**message, "content": None},
        {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "rain"},
    ]
    assert mistral.chat(messages=turns, tools=TOOLS).status_code == 200
    turns[1]["tool_calls"][0]["id"] = turns[2]["tool_call_id"] = "call_1"
    error = mistral.chat(messages=turns, tools=TOOLS).json()["error"]
    assert error["code"] == "template_error" and "length 9" in error["message"]


STEERED = [False, "candid", {"profile": "candid", "trace": "tokens"}]


@pytest.mark.parametrize("steering", STEERED, ids=str)
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=str)
def test_a_random_model_that_has_to_call_calls(real: Live, choice: object, steering: object) -> None:
    """Nothing but the grammar makes it: its arguments are what the schema says, whole and streamed alike."""
    names = set()
    for seed in range(2):
        fields = {"tool_choice": choice, "seed": seed, "steering": steering, "max_tokens": 200}
        answered = alike(real, **fields)
        is_whole = answered["finish_reason"] == "tool_calls"
        assert answered["message"]["content"] is None if is_whole else answered["finish_reason"] == "length"
        for call in answered["message"]["tool_calls"][: None if is_whole else 1]:
            name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
            names.add(name)
            assert valid(arguments, CITY) if name == "weather" else arguments == {}
        assert ("steering" in answered) == (steering is not False)
    assert names == {"weather"} if choice != "required" else names


def test_arguments_stream_as_they_come(real: Live) -> None:
    named_tool = {"type": "function", "function": {"name": "weather"}}
    deltas = [
        piece["function"]["arguments"]
        for chunk in chunks(real, tool_choice=named_tool, seed=3)
        for choice in chunk["choices"]
        for piece in choice["delta"].get("tool_calls", [])
    ]
    assert deltas[0] == "" and len(deltas) > 4 and json.loads("".join(deltas))


def test_one_call_where_only_one_may_be(real: Live) -> None:
    for seed in range(3):
        message = whole(real, tool_choice="required", parallel_tool_calls=False, seed=seed, max_tokens=200)["message"]
        assert len(message["tool_calls"]) == 1


def test_a_message_that_is_gone_on_with_ends_in_the_call(real: Live) -> None:
    begun = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "So:"}]
    message = alike(real, messages=begun, tool_choice="required", parallel_tool_calls=False, max_tokens=200)["message"]
    assert len(message["tool_calls"]) == 1 and message["content"] is None


def test_what_may_call_is_strict_where_it_is_asked(real: Live) -> None:
    """Any text may come, and calls are what their schema says."""
    tools = [function("weather", CITY, strict=True)]
    kinds = set()
    for seed in range(5):
        answered = alike(real, tools=tools, seed=seed, max_tokens=60)
        for call in answered["message"].get("tool_calls", []):
            if answered["finish_reason"] == "tool_calls":
                assert valid(json.loads(call["function"]["arguments"]), CITY)
        kinds.add(answered["finish_reason"])
    assert kinds


def test_json_or_a_call(real: Live) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]} | {
        "additionalProperties": False
    }
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    seen = set()
    for seed in range(3):
        answered = alike(real, response_format=form, parallel_tool_calls=False, seed=seed, max_tokens=200)
        message, reason = answered["message"], answered["finish_reason"]
        if reason == "stop":
            assert valid(json.loads(message["content"]), schema)
        seen.add(reason)
    assert seen <= {"stop", "tool_calls", "length"} and seen & {"stop", "tool_calls"}


def test_the_openai_package_puts_streams_together(real: Live) -> None:
    tool = {"type": "function", "function": {"name": "weather"}}
    with openai.OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, "seed": 2}
        reply = client.chat.completions.create(**asked, tool_choice=tool)
        with client.chat.completions.stream(**asked, tool_choice=tool) as stream:
            final = stream.get_final_completion()
    (call,), (pieces,) = reply.choices[0].message.tool_calls, final.choices[0].message.tool_calls
    assert pieces.function.arguments == call.function.arguments and final.choices[0].finish_reason == "tool_calls"


def test_an_ordinary_path_knows_nothing_of_it(tmp_path: Path) -> None:
    """A model without tools says so; all else it does as before."""
    model = replace(tiny_model(), name="tiny")
    engine = FakeEngine(model, EngineConfig(max_rows=4))
    served = Served(model, engine, PackStore(tmp_path, model), None, 1)  # type: ignore[arg-type]
    with serve(lambda: served) as live:
        error = live.chat(tools=TOOLS).json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_parameter", "tools")
        assert "no place for them" in error["message"]
        assert live.chat(tools=TOOLS, tool_choice="none").status_code == 200
